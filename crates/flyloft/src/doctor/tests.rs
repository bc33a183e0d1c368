//! A healthy machine passes, and each thing that can be wrong is found and says how to mend it.

use std::collections::BTreeSet;

use flyloft_core::certificate::{Names, Standing};
use flyloft_core::disk::{Space, Unit};
use flyloft_core::name::AppName;
use flyloft_core::policy::Excess;

use super::*;
use crate::config::Proof;
use crate::engine::lxc::machine::AppArmor;
use crate::engine::lxc::tree::Usage;
use crate::machine::cgroups::{Cgroups, Version};
use crate::machine::ids::{Grant, Ids};
use crate::machine::kernel::Trial;
use crate::machine::memory::{Memory, Pool, Swap, Zram, Zswap};
use crate::machine::network::{Chain, Network, Resolver, Uplink};
use crate::machine::nginx::Nginx;
use crate::machine::ports::{Holder, Port};
use crate::machine::servers::Server;
use crate::machine::sso::{self, Sso};
use crate::machine::storage::{Filesystem, Storage};
use crate::machine::tls::{Certificate, Tls};
use crate::machine::tools::{Found, Tool};
use crate::machine::{Kernel, Machine};
use crate::tls::PairError;

const MIB: u64 = 1 << 20;

/// The smallest server that people rent, as `flyloft setup` leaves it.
fn healthy() -> Machine {
    let tool = |program, package, found| Tool { program, package, for_what: "containers", found };
    let uplink = |accept_ra| Some(Uplink { interface: "ens3".to_owned(), forwards: true, accept_ra });
    Machine {
        root: true,
        kernel: Kernel {
            release: "6.1.0-41-cloud-amd64".to_owned(),
            overlay: true,
            user_namespaces: 1800,
            seccomp: true,
            idmapped_mounts: Trial::Works,
            apparmor: AppArmor::WithProfile,
            clock_synchronised: true,
            clock: THE_DAY,
        },
        cgroups: Cgroups {
            version: Some(Version::V2),
            controllers: ["cpu", "io", "memory", "pids"].map(str::to_owned).into(),
            swap_accounting: true,
            freezer: true,
            reclaim: true,
        },
        tools: vec![
            tool("lxc-start", "lxc", Found::Version("5.0.2".parse().unwrap())),
            tool("newuidmap", "uidmap", Found::Unversioned),
        ],
        ids: Ids { users: Grant::Root, groups: Grant::Root },
        memory: Memory {
            total: 480 * MIB,
            swaps: vec![Swap { path: "/var/lib/flyloft/swap".into(), size: 1024 * MIB, used: 0 }],
            zram: Zram::Possible,
            zswap: Zswap::On,
            pool: Pool::default(),
        },
        network: Network {
            ipv4: uplink(None),
            ipv6: uplink(Some(2)),
            resolvers: vec![Resolver { address: "9.9.9.9".parse().unwrap(), answers: true }],
            dropping: Vec::new(),
            nftables: Some(true),
        },
        storage: Storage {
            state_dir: "/var/lib/flyloft".into(),
            exists: true,
            unwritable: None,
            filesystem: Filesystem::Ext,
            space: Space { unit: Unit::Bytes, free: 8192 * MIB, taken: 32768 * MIB },
            inodes: Space { unit: Unit::Inodes, free: 500_000, taken: 1_500_000 },
            own: None,
        },
        ports: vec![
            Port { address: "[::]:80".parse().unwrap(), door: "HTTP", holder: None },
            Port {
                address: "[::]:2222".parse().unwrap(),
                door: "SSH",
                holder: Some(Holder { pid: 700, name: "flyloft".to_owned(), ours: true }),
            },
        ],
        servers: Vec::new(),
        nginx: None,
        tls: None,
        sso: None,
        systemd: true,
    }
}

const THE_DAY: u64 = 1_795_500_000;

fn report(machine: &Machine) -> Report {
    Report { checks: judge(machine, &Config::default()) }
}

/// What is said beyond what a healthy machine gets, after `break_it`.
fn broken(break_it: impl FnOnce(&mut Machine)) -> String {
    let mut machine = healthy();
    break_it(&mut machine);
    let report = report(&machine);
    assert_ne!(report.worst(), Verdict::Ok, "{report}");
    let bad = |check: &Check| check.verdict != Verdict::Ok;
    Report { checks: report.checks.into_iter().filter(bad).collect() }.to_string()
}

#[test]
fn a_healthy_machine_is_told_so_in_plain_words() {
    insta::assert_snapshot!(report(&healthy()), @r#"
    ok       user: this runs as root, as the daemon must
    ok       tools: lxc-start 5.0.2, newuidmap
    ok       memory: 480 MiB, about 6 small apps awake
    ok       swap: 1 GiB behind zswap: about 29 small apps asleep; asleep an environment keeps 40 % of its memory, compressed, and wakes in about 10 ms; deep asleep it keeps a few per cent, and wakes in about 50 ms
    ok       state directory: `/var/lib/flyloft` can be written to
    ok       disk: 8 GiB are free
    ok       ports: HTTP at [::]:80 is free
    ok       ports: SSH at [::]:2222 is flyloft's
    ok       clock: it is synchronised
    ok       kernel: Linux 6.1.0-41-cloud-amd64
    ok       cgroups: version 2
    ok       ids: 4096 ranges of 65536 are reserved for containers
    ok       apparmor: LXC's profile confines containers, too
    ok       IPv4: out by ens3, and packets of environments are forwarded
    ok       IPv6: out by ens3, and packets of environments are forwarded
    ok       DNS: 9.9.9.9 answers
    everything is as it should be
    "#);
}

#[test]
fn everything_that_is_wrong_says_how_to_mend_it() {
    let mut machine = healthy();
    let no_idmap = Trial::Fails("Invalid argument (os error 22)".to_owned());
    machine.kernel = Kernel {
        release: "5.10.0".to_owned(),
        overlay: false,
        user_namespaces: 0,
        seccomp: false,
        idmapped_mounts: no_idmap,
        apparmor: AppArmor::WithoutProfile,
        clock_synchronised: false,
        clock: 1000,
    };
    machine.cgroups.controllers = BTreeSet::new();
    machine.cgroups.freezer = false;
    machine.cgroups.reclaim = false;
    machine.tools[0].found = Found::Missing;
    machine.tools[1].found = Found::TooOld { have: "1.0.0".parse().unwrap(), need: "2.0.0".parse().unwrap() };
    machine.ids = Ids { users: Grant::Nobody, groups: Grant::Other("bob".to_owned()) };
    machine.memory.swaps.clear();
    machine.network = Network {
        ipv4: None,
        ipv6: Some(Uplink { interface: "eth0.7".to_owned(), forwards: true, accept_ra: Some(1) }),
        resolvers: Vec::new(),
        dropping: vec![Chain {
            family: "ip".to_owned(),
            table: "filter".to_owned(),
            name: "FORWARD".to_owned(),
            hook: "forward".to_owned(),
        }],
        nftables: Some(false),
    };
    machine.storage.unwritable = Some("Read-only file system (os error 30)".to_owned());
    (machine.storage.space.free, machine.storage.own) = (MIB, Some(Usage { bytes: 3072 * MIB, inodes: 9 }));
    machine.ports[0].holder = Some(Holder { pid: 612, name: "nginx".to_owned(), ours: false });
    let report = report(&machine);
    assert!(report.checks.iter().all(|check| check.verdict == Verdict::Ok || check.remedy.is_some()));
    insta::assert_snapshot!(report, @r#"
    ok       user: this runs as root, as the daemon must
    problem  tools: `newuidmap` is version 1.0.0; 2.0.0 is needed for containers
             → install a newer `uidmap`
    problem  tools: there is no `lxc-start` (for containers)
             → apt-get install --no-install-recommends lxc
    ok       memory: 480 MiB, about 6 small apps awake
    warning  swap: there is none: an environment that sleeps keeps all of its memory
             → flyloft setup
    problem  state directory: nothing can be written to `/var/lib/flyloft`: Read-only file system (os error 30)
             → mend that, or choose another with state_dir in the configuration
    problem  disk: 1 MiB are free, and 2 GiB must stay free: caches and old releases go, and what is off where that is enough, and until it is nothing is built; something else fills it: Flyloft has 3.0 GiB of the 32.0 GiB that are taken
             → make room, destroy what nobody needs, or lower disk.floor in the configuration; the daemon's log says what it could free at most
    problem  ports: HTTP at [::]:80 is taken by `nginx` (process 612)
             → stop it, or set http.listen in the configuration
    ok       ports: SSH at [::]:2222 is flyloft's
    problem  clock: the clock is years behind: no certificate is valid
             → set it, or install an NTP client
    problem  kernel: Linux 5.10.0 is too old: layers need 5.19
             → install the kernel of Debian 12 or newer, and reboot
    problem  kernel: it has no overlayfs
             → use a kernel with CONFIG_OVERLAY_FS; inside a container, ask its host
    problem  kernel: it has no user namespaces
             → sysctl -w user.max_user_namespaces=65536
    problem  kernel: it has no seccomp filters
             → use a kernel with CONFIG_SECCOMP_FILTER
    problem  kernel: the state directory's file system cannot be mounted with other owners: Invalid argument (os error 22)
             → put the state directory on ext4, xfs or btrfs; inside a container, ask its host
    problem  cgroups: the controllers cpu, memory, pids are missing, so that nothing bounds an environment
             → add cgroup_enable=memory to the kernel's command line, and reboot
    problem  sleep: there is no freezer, so that nothing can sleep
             → use a kernel with CONFIG_CGROUP_FREEZER
    warning  sleep: the kernel cannot push out a group's memory (memory.reclaim): what sleeps keeps it
             → use Linux 5.19 or newer
    warning  ids: /etc/subuid reserves no ids for containers; the daemon will do it
             → flyloft setup
    problem  ids: /etc/subgid gives `bob` ids that containers use (0x70000000 to 0x7fffffff)
             → give `bob` other ids, below 1879048192
    warning  apparmor: it is on, but without LXC's profile: containers are held by namespaces, seccomp and capabilities alone
             → apt-get install apparmor, and reboot
    warning  IPv4: the machine has no default route for IPv4: environments cannot reach the outside by it
             → give it an IPv4 address and a gateway, if builds need it
    problem  IPv6: eth0.7 ignores router advertisements since the kernel forwards: its route will expire
             → sysctl -w net.ipv6.conf.eth0/7.accept_ra=2
    problem  DNS: the machine knows no resolver: no build can fetch anything
             → mend /etc/resolv.conf, or name resolvers with network.dns in the configuration
    problem  firewall: `nft` cannot talk to the kernel, so that nothing would separate environments
             → modprobe nf_tables
    warning  firewall: chain `FORWARD` of table `ip filter` drops all that it was not told to let through: environments reach nothing outside, and builds fetch nothing
             → nft insert rule ip filter FORWARD iifname "fl*" accept
             → nft insert rule ip filter FORWARD oifname "fl*" ct state established,related accept
             → and the same where that firewall keeps its rules
    17 problems must be mended before environments can run
    "#);
}

#[test]
fn swap_is_judged_by_where_pages_would_go() {
    assert!(broken(|machine| machine.memory.swaps.clear()).contains("keeps all of its memory"));
    assert!(broken(|machine| machine.memory.zswap = Zswap::Off).contains("on disk alone"));
    assert!(
        broken(|machine| machine.memory.swaps[0].used = 1000 * MIB).contains("what falls asleep now keeps its memory")
    );
    let mut disk_alone = healthy();
    (disk_alone.memory.zswap, disk_alone.memory.zram) = (Zswap::Missing, Zram::Missing);
    assert_eq!(report(&disk_alone).worst(), Verdict::Ok, "nothing can be done about it");
    let mut zram = healthy();
    zram.memory.swaps.insert(0, Swap { path: "/dev/zram0".into(), size: 240 * MIB, used: 0 });
    assert!(report(&zram).to_string().contains("240 MiB of zram before 1 GiB on disk"));
    assert_eq!(report(&zram).worst(), Verdict::Ok);
}

#[test]
fn what_sleep_keeps_is_measured_where_there_is_enough_to_measure() {
    let mut busy = healthy();
    busy.memory.pool = Pool { stored: 1000 * MIB, taken: 330 * MIB };
    assert!(report(&busy).to_string().contains("keeps 33 % of its memory"));
    busy.memory.pool = Pool { stored: MIB, taken: MIB };
    assert!(report(&busy).to_string().contains("keeps 40 % of its memory"));
}

#[test]
fn a_port_is_flylofts_where_this_daemon_has_it_and_not_where_somebody_is_called_so() {
    let said = broken(|machine| {
        machine.ports[1].holder = Some(Holder { pid: 612, name: "flyloft".to_owned(), ours: false });
    });
    assert!(said.contains("SSH at [::]:2222 is taken by `flyloft` (process 612)"), "{said}");
    let mut installed = healthy();
    installed.ports[1].holder = Some(Holder { pid: 700, name: "daemon".to_owned(), ours: true });
    assert!(report(&installed).to_string().contains("SSH at [::]:2222 is flyloft's"));
}

#[test]
fn a_resolver_on_the_loopback_is_useless_to_containers() {
    let said = broken(|machine| machine.network.resolvers[0].address = "127.0.0.1".parse().unwrap());
    assert!(said.contains("containers cannot reach"), "{said}");
    let said = broken(|machine| machine.network.resolvers[0].answers = false);
    assert!(said.contains("9.9.9.9 gives no answer"), "{said}");
}

#[test]
fn the_file_system_must_carry_an_overlay() {
    let said = broken(|machine| machine.storage.filesystem = Filesystem::Overlay);
    assert!(said.starts_with("problem  state directory"), "{said}");
    let said = broken(|machine| machine.storage.filesystem = Filesystem::Tmpfs);
    assert!(said.contains("gone after a reboot"), "{said}");
}

#[test]
fn json_has_the_same_checks() {
    let json = serde_json::to_value(report(&healthy())).unwrap();
    assert_eq!(json["checks"][0]["about"], "user");
    assert_eq!(json["checks"][0]["verdict"], "ok");
}

#[test]
fn sizes_are_said_as_people_say_them() {
    assert_eq!(bytes(512 << 10), "512 KiB");
    assert_eq!(bytes(512 * MIB), "512 MiB");
    assert_eq!(bytes(1536 * MIB), "1.5 GiB");
    assert_eq!(bytes(2048 * MIB), "2 GiB");
    assert_eq!(bytes(72 * 1024 * MIB + 512 * MIB), "72 GiB");
}

#[test]
fn a_server_that_is_stopped_or_nearly_full_is_found_and_so_are_those_that_may_take_too_much() {
    let server = |name: &str, runs, excess, data| Server {
        name: format!("{name} (postgres)"),
        runs,
        excess,
        memory: 192 * MIB,
        data: data * MIB,
        most: 10240 * MIB,
    };
    let found = broken(|machine| {
        machine.servers = vec![
            server("well", true, None, 40),
            server("full", true, None, 9800),
            server("stopped", false, Some(Excess::Volume), 10300),
            server("down", false, None, 40),
        ];
    });
    insta::assert_snapshot!(found, @r"
    warning  servers: full (postgres) is nearly full: 9.5 GiB of 10 GiB taken
             → give it more: flyloft services upgrade full --disk SIZE
    warning  servers: stopped (postgres) was stopped: one of its volumes has outgrown its size; 10 GiB of 10 GiB taken
             → give it more: flyloft services upgrade stopped --disk SIZE
    warning  servers: down (postgres) does not run, and the daemon starts it
             → see what keeps it from that: flyloft services check down
    warning  servers: together they may take 768 MiB of 480 MiB of memory
             → let one have less: flyloft services upgrade NAME --memory SIZE
    it works; 4 things could be better
    ");
}

/// nginx as the edge, as it should be.
fn nginx() -> Nginx {
    Nginx {
        file: "/var/lib/flyloft/nginx/flyloft.conf".into(),
        conf: "/etc/nginx/nginx.conf".into(),
        pid_file: "/run/nginx.pid".into(),
        installed: true,
        runs: true,
        refuses: None,
        includes_ours: true,
        site_speaks_tls: false,
        cuts_after: None,
        workers: Some(("www-data".to_owned(), true)),
        snippets: "/etc/flyloft/nginx".into(),
        refused: Default::default(),
        refused_tls: None,
    }
}

#[test]
fn an_nginx_that_is_the_edge_has_the_ports() {
    let mut machine = healthy();
    machine.nginx = Some(nginx());
    machine.ports[0].holder = Some(Holder { pid: 612, name: "nginx".to_owned(), ours: false });
    let report = report(&machine);
    assert_eq!(report.worst(), Verdict::Ok, "{report}");
    let text = report.to_string();
    assert!(text.contains("ok       ports: HTTP at [::]:80 is nginx's\n"), "{text}");
    assert!(text.contains("ok       nginx: it runs, and reads `/var/lib/flyloft/nginx/flyloft.conf`\n"), "{text}");
}

#[test]
fn whatever_keeps_nginx_from_being_the_edge_is_said() {
    let with = |change: fn(&mut Nginx)| {
        let mut nginx = nginx();
        change(&mut nginx);
        broken(|machine| machine.nginx = Some(nginx))
    };
    let all = [
        with(|nginx| nginx.installed = false),
        with(|nginx| nginx.includes_ours = false),
        with(|nginx| (nginx.runs, nginx.workers) = (false, None)),
        with(|nginx| {
            nginx.refuses = Some("unknown directive \"lisen\" in /etc/nginx/sites-enabled/other:3".to_owned())
        }),
        with(|nginx| nginx.workers = Some(("nobody".to_owned(), false))),
        with(|nginx| nginx.cuts_after = Some("10s".to_owned())),
        with(|nginx| {
            let why = "unknown directive \"alow\" in /var/lib/flyloft/nginx/snippets/shop.conf:1";
            nginx.refused.insert(AppName::parse("shop").unwrap(), why.to_owned());
        }),
        with(|nginx| {
            nginx.refused_tls = Some("nginx does not take the certificate for `*.example.org`: no".to_owned())
        }),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

fn certificate() -> Certificate {
    Certificate {
        file: "/etc/flyloft/tls/fullchain.pem".into(),
        names: Names::new(["*.localhost".to_owned()]),
        standing: Standing::Good,
        days_left: 60,
        until: "2027-01-29 12:00 UTC".to_owned(),
        trusted: true,
        lacks: None,
        is_own: false,
    }
}

#[test]
fn a_certificate_for_the_domain_is_all_that_tls_needs() {
    let mut machine = healthy();
    machine.tls = Some(Tls { certificates: vec![Ok(certificate())], covers_domain: true });
    let report = report(&machine);
    assert_eq!(report.worst(), Verdict::Ok, "{report}");
    let text = report.to_string();
    assert!(
        text.contains("ok       tls: `/etc/flyloft/tls/fullchain.pem` for *.localhost holds for 60 days\n"),
        "{text}"
    );
}

#[test]
fn where_certificates_are_asked_for_it_is_said_who_knows_why_there_is_none() {
    let said = |proof| {
        let mut config = Config::default();
        config.acme.proof = proof;
        let none = Tls { certificates: Vec::new(), covers_domain: false };
        let checks = super::tls::judge(Some(&none), &config);
        checks.into_iter().filter_map(|check| check.remedy).collect::<Vec<_>>()
    };
    assert_eq!(said(Proof::Rfc2136), ["see why none was obtained: flyloft tls check"]);
    assert!(said(Proof::Http).is_empty(), "each host name has its own");
}

#[test]
fn whatever_keeps_clients_from_tls_is_said() {
    let with = |certificate| {
        let covers_domain = matches!(certificate, Some(Ok(_)));
        let certificates = certificate.into_iter().collect();
        broken(|machine| machine.tls = Some(Tls { certificates, covers_domain }))
    };
    let all = [
        with(None),
        with(Some(Err(PairError::Open { path: "/etc/flyloft/tls/privkey.pem".into(), mode: 0o644 }))),
        with(Some(Ok(Certificate { trusted: false, ..certificate() }))),
        with(Some(Ok(Certificate { trusted: false, lacks: Some("CN=Between".to_owned()), ..certificate() }))),
        with(Some(Ok(Certificate { standing: Standing::Soon { days: 1 }, days_left: 1, ..certificate() }))),
        with(Some(Ok(Certificate {
            standing: Standing::Soon { days: 9 },
            days_left: 9,
            is_own: true,
            ..certificate()
        }))),
    ];
    insta::assert_snapshot!(all.join("\n"), @r"
    problem  tls: no certificate that can be used is for `*.localhost`, so clients are refused
             → name one, and its key, with `certificates` in `[tls]` of the configuration, or make one for trying out: flyloft tls local-ca
    1 problem must be mended before environments can run

    problem  tls: others on this machine may read or write the key `/etc/flyloft/tls/privkey.pem`: its mode is 644
             → chmod 600 /etc/flyloft/tls/privkey.pem
    problem  tls: no certificate that can be used is for `*.localhost`, so clients are refused
             → name one, and its key, with `certificates` in `[tls]` of the configuration, or make one for trying out: flyloft tls local-ca
    2 problems must be mended before environments can run

    warning  tls: `/etc/flyloft/tls/fullchain.pem` for *.localhost was issued by nobody whom this machine trusts; it holds for 60 days
             → append the certificates of those that issued it; if that is an authority of your own, trust it
    it works; 1 thing could be better

    warning  tls: `/etc/flyloft/tls/fullchain.pem` for *.localhost was issued by `CN=Between`, whose certificate is not behind it, so most clients do not believe it
             → append the certificates of those that issued it; if `CN=Between` is an authority of your own, have this machine trust it
    it works; 1 thing could be better

    warning  tls: `/etc/flyloft/tls/fullchain.pem` for *.localhost expires in 1 day, on 2027-01-29 12:00 UTC
             → renew it; the new files are taken within a minute
    it works; 1 thing could be better

    warning  tls: `/etc/flyloft/tls/fullchain.pem` for *.localhost expires in 9 days, on 2027-01-29 12:00 UTC
             → see why it is not renewed: flyloft tls check
    it works; 1 thing could be better
    ");
}

#[test]
fn it_is_said_whether_anybody_can_log_in_and_where_people_come_back_to() {
    let with = |found: sso::Found| {
        let mut machine = healthy();
        let callback = "https://login.example.org/callback".to_owned();
        machine.sso = Some(Sso { issuer: "https://id.example.org".to_owned(), callback, found });
        let checks = judge(&machine, &Config::default());
        Report { checks: checks.into_iter().filter(|check| check.about == "sso").collect() }.to_string()
    };
    let ok = with(sso::Found::Answers { keys: 2 });
    assert!(
        ok.starts_with("ok       sso: `https://id.example.org` answers; `https://login.example.org/callback` is to be")
    );
    let silent = with(sso::Found::Silent { why: "it did not answer within 8 s".to_owned() });
    assert!(silent.starts_with("warning  sso: nobody can log in with `https://id.example.org`: it did not answer"));
    assert!(with(sso::Found::Answers { keys: 0 }).contains("has no key"));
    let secret = with(sso::Found::NoSecret { why: "it is open".to_owned(), remedy: "chmod 600 it".to_owned() });
    assert!(secret.starts_with("problem  sso: it is open\n         → chmod 600 it\n"), "{secret}");
}
