//! What a stranger may send, and what must not come of it.

use std::process::Command;

use crate::harness::{Flyloft, run, text};
use crate::inside::HostAddress;
use crate::push::{app, borrowed};

#[test]
fn a_newline_in_a_variable_is_a_newline_in_a_variable() {
    let flyloft = Flyloft::start();
    let mark = std::env::temp_dir().join(format!("flyloft-it-hook-{}", std::process::id()));
    let value = format!("x\nlxc.hook.pre-start = /usr/bin/touch {}\nlxc.environment = Y=1", mark.display());
    let app_json = serde_json::json!({"env": {"INJECTED": value}}).to_string();
    let mut files = app("hello");
    files.push(("app.json", app_json));
    let repository = flyloft.repository("it-newline", &borrowed(&files));
    repository.pushed(&["main"]);
    assert!(flyloft.get("it-newline/main", "/env").body.contains(&format!("INJECTED={value}")));
    assert!(!mark.exists(), "the variable ran a program on the host");
    flyloft.ok(&["destroy", "it-newline", "--yes"]);
}

#[test]
fn a_key_of_one_app_neither_pushes_to_another_nor_commands_it() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-victim", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    flyloft.demote("it-other");
    let output = repository.rejected(&["main:again"]);
    assert!(output.contains("may not use app `it-victim`"), "{output}");
    for command in [
        "logs it-victim/main",
        "run it-victim/main -- id",
        "config ls it-victim",
        "destroy it-victim --yes",
        "keys ls",
        "events",
    ] {
        let output = flyloft.ssh(command);
        assert_eq!(output.status.code(), Some(1), "{command}: {}", text(&output));
        assert!(text(&output).contains("error: "), "{command}: {}", text(&output));
    }
    assert!(!text(&flyloft.ssh("ls")).contains("it-victim"));
    assert_eq!(flyloft.get("it-victim/main", "/").status, 200);
    flyloft.ok(&["destroy", "it-victim", "--yes"]);
}

#[test]
fn nothing_makes_the_daemon_read_a_file_for_somebody_far_away() {
    let flyloft = Flyloft::start();
    for command in [
        "up it-reach --path /root",
        "keys add thief /etc/ssh/ssh_host_ed25519_key --admin",
        "apps create it-reach --git https://git.example.org/x --token-from /etc/shadow",
        "apps create it-reach --git git@git.example.org:x --deploy-key-from /etc/shadow",
    ] {
        let output = flyloft.ssh(command);
        assert_eq!(output.status.code(), Some(2), "{command}: {}", text(&output));
        assert!(text(&output).contains("would be a file of the server"), "{command}: {}", text(&output));
    }
}

#[test]
fn malformed_commands_are_refused_and_reach_no_shell() {
    let flyloft = Flyloft::start();
    let mark = std::env::temp_dir().join(format!("flyloft-it-shell-{}", std::process::id()));
    for command in [
        format!("ls; touch {}", mark.display()),
        format!("ls $(touch {})", mark.display()),
        format!("ls `touch {}`", mark.display()),
        "ls 'unfinished".to_owned(),
        "git-receive-pack '../../etc'".to_owned(),
        "git-upload-pack".to_owned(),
        "git-shell".to_owned(),
        "scp -f /etc/passwd".to_owned(),
    ] {
        let output = flyloft.ssh(&command);
        assert!(!output.status.success(), "{command} was taken: {}", text(&output));
    }
    assert!(!mark.exists(), "a shell saw the command");
}

#[test]
fn branches_with_strange_names_are_staged_under_a_name_of_their_own_or_refused() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-names", &borrowed(&app("hello")));
    let mark = std::env::temp_dir().join(format!("flyloft-it-branch-{}", std::process::id()));
    let metacharacters = format!("main:refs/heads/x;touch${{IFS}}{};$(id)", mark.display());
    for branch in ["main:refs/heads/a/👩‍🚀/b", &metacharacters, &format!("main:refs/heads/{}", "long".repeat(40))]
    {
        let output = repository.pushed(&[branch]);
        assert!(output.contains("=====> Deployed"), "{output}");
    }
    for (branch, complaint) in [
        ("main:refs/heads/pr-42", "kept for pull requests"),
        ("main:refs/tags/v1", "tag"),
        ("main:refs/notes/x", "refs/notes/x"),
    ] {
        let output = repository.rejected(&[branch]);
        assert!(output.contains(complaint), "{output}");
    }
    repository.pushed(&["main:feature/x"]);
    let output = repository.rejected(&["main:feature-x"]);
    assert!(output.contains("stages branch `feature/x` already"), "{output}");
    assert!(!mark.exists(), "a shell saw the branch's name");
    flyloft.ok(&["destroy", "it-names", "--yes"]);
}

/// Tries all connections that it is given at once. Prints a line for each: `open`, or `closed` and why.
const CONNECT: &str = r#"
import concurrent.futures, json, socket, sys
def attempt(target):
    try:
        socket.create_connection(tuple(target), 2)
        return "open"
    except OSError as error:
        return f"closed {error}"
targets = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    for outcome in pool.map(attempt, targets):
        print(outcome)
"#;

/// What becomes of connections that an environment opens.
fn connect(flyloft: &Flyloft, env: &str, targets: &[(String, u16)]) -> Vec<String> {
    let targets = serde_json::to_string(targets).unwrap();
    let output = flyloft.ok(&["run", env, "--", "python3", "-c", CONNECT, &targets]);
    output.lines().map(str::to_owned).collect()
}

/// The host's end of the link on which this address is, and its own address there.
fn link_local(of: &str) -> String {
    let route = run(Command::new("ip").args(["-6", "-o", "route", "get", of]));
    let (_, link) = route.split_once(" dev ").unwrap();
    let link = link.split(' ').next().unwrap();
    let shown = run(Command::new("ip").args(["-6", "-o", "address", "show", "dev", link, "scope", "link"]));
    let (_, address) = shown.split_once("inet6 ").unwrap();
    address.split('/').next().unwrap().to_owned()
}

#[test]
fn a_container_reaches_neither_its_neighbours_nor_the_host_nor_private_addresses() {
    let flyloft = Flyloft::start();
    // Its server listens on both families.
    let mut files = app("hello");
    let both = "import http.server, socket\nhttp.server.ThreadingHTTPServer.address_family = socket.AF_INET6\n";
    files[2].1 = format!("{both}{}", files[2].1.replace("(\"\",", "(\"::\","));
    let repository = flyloft.repository("it-net", &borrowed(&files));
    repository.pushed(&["main", "main:other"]);
    // A container's own name stands for its addresses.
    let addresses = |env: &str| -> Vec<String> {
        let hosts = flyloft.ok(&["run", env, "--", "cat", "/etc/hosts"]);
        let own = hosts.lines().filter(|line| !line.contains("localhost"));
        own.filter_map(|line| line.split('\t').next().map(str::to_owned)).collect()
    };
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let extra = HostAddress::add();
    let host = run(Command::new("hostname").arg("--all-ip-addresses"));
    let neighbours = addresses("it-net/other");
    assert!(neighbours.len() == 2 && neighbours[1].contains(':'), "{neighbours:?}");
    let own = addresses("it-net/main");
    let gateway = format!("{}%eth0", link_local(&own[1]));

    let mut targets: Vec<(String, u16)> = neighbours.iter().map(|address| (address.clone(), 5000)).collect();
    targets.extend(host.split_whitespace().map(|address| (address.to_owned(), port)));
    for address in [&extra.0, "169.254.1.1", "fe80::1%eth0", &gateway] {
        targets.push((address.to_owned(), port));
    }
    // The edge is open to a container's own address, and not to one that it has not been given: its link-local one.
    targets.push((gateway.clone(), flyloft.http));
    // Metadata of clouds, private and on-link networks, and what a gateway would translate to IPv4.
    for address in
        ["169.254.169.254", "10.0.0.1", "fd00:ec2::254", "fd00::1", "fec0::1", "64:ff9b::a9fe:a9fe", "ff02::1%eth0"]
    {
        targets.push((address.to_owned(), 80));
    }
    let outcomes = connect(&flyloft, "it-net/main", &targets);
    assert_eq!(outcomes.len(), targets.len());
    for (target, outcome) in targets.iter().zip(&outcomes) {
        assert!(outcome.starts_with("closed"), "{target:?}: {outcome}");
    }
    // They are there: the host itself gets through.
    for (address, port) in neighbours.iter().map(|address| (address, 5000)).chain([(&extra.0, port)]) {
        std::net::TcpStream::connect((address.as_str(), port)).unwrap();
    }
    // The way that is meant to be open: a URL, by the edge, over both families.
    let ipv4 = host.split_whitespace().find(|address| !address.contains(':')).unwrap().to_owned();
    let open = [(extra.0.clone(), flyloft.http), (ipv4, flyloft.http)];
    assert_eq!(connect(&flyloft, "it-net/main", &open), ["open", "open"]);
    assert_eq!(flyloft.get("it-net/other", "/").status, 200);

    // Packets of its own making: router advertisements, and whatever has another source.
    let raw = "import socket\nfor family, protocol in [(10, 58), (10, 255), (2, 1), (2, 255), (17, 0)]:\n  \
        try:\n    socket.socket(family, socket.SOCK_RAW, protocol)\n    print('made')\n  \
        except OSError as error:\n    print('refused')";
    assert_eq!(flyloft.ok(&["run", "it-net/main", "--", "python3", "-c", raw]), "refused\n".repeat(5));
    flyloft.ok(&["destroy", "it-net", "--yes"]);
}

/// Answers every request for a file with this one, until the test ends.
fn serve_file(address: &str, content: Vec<u8>) -> u16 {
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request: Vec<u8> = Vec::new();
            let mut piece = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match std::io::Read::read(&mut stream, &mut piece) {
                    Ok(count @ 1..) => request.extend(&piece[..count]),
                    _ => break,
                }
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
            let _ = std::io::Write::write_all(&mut stream, &[head.as_bytes(), &content].concat());
        }
    });
    port
}

/// The build of a package that makes what it sees of the app part of the package.
const NOSY: &str = r#"
import os, zipfile
def build_wheel(directory, settings=None, metadata=None):
    seen = sorted(os.path.join(at, name) for at, _, names in os.walk("/app") for name in names)
    name = "nosy-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("nosy.py", f"SEEN = {seen!r}\n")
        wheel.writestr("nosy-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: nosy\nVersion: 1\n")
        wheel.writestr("nosy-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("nosy-1.dist-info/RECORD", "")
    return name
"#;

#[test]
fn what_installs_dependencies_sees_no_file_of_the_app_and_so_poisons_no_branch_that_shares_them() {
    let mut flyloft = Flyloft::start();
    let work = tempfile::tempdir().unwrap();
    let source = work.path().join("nosy-1");
    std::fs::create_dir(&source).unwrap();
    let project = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n";
    for (name, content) in [
        ("backend.py", NOSY),
        ("pyproject.toml", project),
        ("PKG-INFO", "Metadata-Version: 2.1\nName: nosy\nVersion: 1\n"),
    ] {
        std::fs::write(source.join(name), content).unwrap();
    }
    let archive = work.path().join("nosy-1.tar.gz");
    run(Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(work.path()).arg("nosy-1"));
    let address = HostAddress::add();
    let port = serve_file(&address.0, std::fs::read(&archive).unwrap());
    flyloft.kill();
    flyloft.config = format!("[build]\nallow = ['[{}]:{port}']\n", address.0);
    flyloft.serve();

    let mut files = app("hello");
    files[1].1 = format!("nosy @ http://[{}]:{port}/nosy-1.tar.gz\n", address.0);
    files[2].1 = format!(
        "import nosy\nSEEN = '\\n'.join(nosy.SEEN)\n{}",
        files[2].1.replace("VERSION).encode", "VERSION + SEEN).encode")
    );
    files.push(("secret.txt", "of main\n".to_owned()));
    files.push(("sitecustomize.py", "print('poison')\n".to_owned()));
    let repository = flyloft.repository("it-nosy", &borrowed(&files));
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-nosy/main", "/").body, "hello/app/requirements.txt");

    // Another branch takes what that one installed, and there is nothing of it in there.
    repository.git(&["rm", "--quiet", "sitecustomize.py"]);
    repository.commit(&[("secret.txt", "of another branch\n")]);
    let output = repository.pushed(&["main:other"]);
    assert!(output.contains("Python packages with pip unchanged, using layer"), "{output}");
    assert_eq!(flyloft.get("it-nosy/other", "/").body, "hello/app/requirements.txt");
    flyloft.ok(&["destroy", "it-nosy", "--yes"]);
}

#[test]
fn a_command_in_a_container_does_not_see_the_daemons_environment() {
    let flyloft = Flyloft::start();
    let repository = flyloft.repository("it-environ", &borrowed(&app("hello")));
    repository.pushed(&["main"]);
    let output = flyloft.ok(&["run", "it-environ/main", "--", "env"]);
    for name in ["FLYLOFT_LOG", "FLYLOFT_SOCKET", "FLYLOFT_INIT", "CARGO"] {
        assert!(!output.contains(name), "{output}");
    }
    let environ = flyloft.ok(&["run", "it-environ/main", "--", "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ || true"]);
    assert!(!environ.contains("FLYLOFT_LOG"), "{environ}");
    flyloft.ok(&["destroy", "it-environ", "--yes"]);
}
