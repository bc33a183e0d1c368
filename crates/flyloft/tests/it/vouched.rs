//! Servers that encrypt, and whom an authority of the team's own vouches for: who talks to them in a container believes them,
//! and nobody in their place.

use crate::data::with_input;
use crate::harness::{Flyloft, text, wait_for};
use crate::kinds::SERVE;
use crate::mariadb::Mariadb;
use crate::own_server::Authority;
use crate::postgres::Postgres;
use crate::rabbitmq::Rabbitmq;
use crate::redis::Redis;
use crate::servers::{forget_servers, host_address};

/// As the release command, and as the server: by the URL alone, or by the variables of PostgreSQL's own.
const POSTGRES: &str = r#"
import os, psycopg

def ask(where):
    with psycopg.connect(where, connect_timeout=5) as connection:
        encrypted = connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()[0]
        return "encrypted" if encrypted else "plain"

def answer(words):
    return ask({"url": os.environ["DATABASE_URL"], "parts": "", "reports": os.environ["REPORTS_URL"]}[words[0]])
"#;

const OTHERS: &str = r#"
import os, ssl, urllib.parse, pika, pymysql, redis

def answer(words):
    match words:
        case ["mysql"]:
            url = urllib.parse.urlsplit(os.environ["MYSQL_URL"])
            at = dict(host=url.hostname, port=url.port, user=url.username, password=url.password, connect_timeout=5)
            with pymysql.connect(ssl={"ca": os.environ["MYSQL_SSL_CA"]}, **at) as connection:
                with connection.cursor() as cursor:
                    cursor.execute("SHOW STATUS LIKE 'Ssl_version'")
                    return cursor.fetchone()[1]
        case ["redis", *files]:
            files = {"ssl_ca_certs": os.environ["REDIS_SSL_CA"]} if not files else {}
            client = redis.Redis.from_url(os.environ["REDIS_URL"], ssl_check_hostname=True, socket_timeout=5, **files)
            return client.set(os.environ["REDIS_PREFIX"] + "a", "1")
        case ["rabbitmq"]:
            parameters = pika.URLParameters(os.environ["RABBITMQ_URL"])
            context = ssl.create_default_context(cafile=os.environ["RABBITMQ_SSL_CA"])
            parameters.ssl_options = pika.SSLOptions(context, parameters.host)
            parameters.socket_timeout = parameters.blocked_connection_timeout = 5
            connection = pika.BlockingConnection(parameters)
            connection.channel().queue_declare("jobs")
            connection.close()
            return "open"
"#;

/// Has the daemon believe a server by this authority: `services add`, or `services change`.
#[track_caller]
fn vouch(flyloft: &Flyloft, words: &[&str], url: &str, authority: &Authority) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, &authority.pem).unwrap();
    let more = ["--url", "-", "--ca", file.path().to_str().unwrap()];
    let told = with_input(flyloft, &[&["services"], words, &more].concat(), url);
    assert!(told.status.success(), "{}", text(&told));
}

#[test]
fn an_app_believes_its_postgresql_by_who_vouches_for_it_and_nobody_else_at_its_place() {
    let mut flyloft = Flyloft::start();
    let (mut postgres, host) = (Postgres::start(), host_address());
    let [team, other] = ["team", "other"].map(Authority::new);
    let mut show = |certificate: &[String; 2]| {
        postgres.stop();
        postgres.encrypt(certificate);
        postgres.run();
        postgres.url().replace("127.0.0.1", &host)
    };
    forget_servers(&mut flyloft);
    let url = show(&team.vouch(&host));
    vouch(&flyloft, &["add", "it-pg", "--kind", "postgres"], &url, &team);
    let repository = flyloft.repository(
        "it-vouched",
        &[
            ("Procfile", "release: python3 release.py\nweb: python3 server.py\n"),
            ("requirements.txt", "psycopg[binary]==3.2.13\n"),
            ("app.json", r#"{"addons": ["postgres", {"plan": "postgres", "as": "REPORTS"}]}"#),
            ("release.py", &format!("{POSTGRES}print('the release command is', answer(['url']))\n")),
            ("server.py", &format!("{POSTGRES}{SERVE}")),
        ],
    );
    let pushed = repository.pushed(&["main"]);
    assert!(pushed.contains("the release command is encrypted"), "{pushed}");
    let all = |flyloft: &Flyloft| ["/url", "/parts", "/reports"].map(|path| flyloft.get("it-vouched/main", path).body);
    assert_eq!(all(&flyloft), ["encrypted"; 3]);
    let run = |script: &str| flyloft.cli(&["run", "it-vouched/main", "--", "sh", "-c", script]);
    assert_eq!(text(&run("cat /flyloft/ca/it-pg.pem")), team.pem);
    let changed = run("echo >> /flyloft/ca/it-pg.pem || rm -f /flyloft/ca/it-pg.pem");
    assert!(!changed.status.success(), "an app can change whom others believe: {}", text(&changed));
    let psql = || with_input(&flyloft, &["services", "psql", "it-vouched/main"], "\\conninfo\n");
    let looked = psql();
    assert!(looked.status.success(), "{}", text(&looked));
    repository.commit(&[("later.txt", "")]);
    repository.pushed(&["main"]);
    flyloft.ok(&["rollback", "it-vouched/main"]);
    assert_eq!(all(&flyloft), ["encrypted"; 3]);

    // Somebody else at its address, and then it is the server's own new certificate.
    let url = show(&other.vouch(&host));
    for answered in all(&flyloft) {
        assert!(answered.contains("certificate verify failed"), "{answered}");
    }
    let refused = psql();
    assert!(!refused.status.success() && text(&refused).contains("certificate verify failed"), "{}", text(&refused));
    vouch(&flyloft, &["change", "it-pg"], &url, &other);
    flyloft.ok(&["restart", "it-vouched/main"]);
    assert_eq!(all(&flyloft), ["encrypted"; 3]);
    assert_eq!(text(&run("cat /flyloft/ca/it-pg.pem")), other.pem);

    // What has nothing on a server is not told who vouches for it.
    flyloft.ok(&["set", "it-vouched/main", "services=none"]);
    flyloft.ok(&["restart", "it-vouched/main"]);
    assert_eq!(text(&run("ls /flyloft; printenv PGSSLROOTCERT || true")), "init\nspec.json\n");
    flyloft.ok(&["destroy", "it-vouched", "--yes"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-pg"]).status.success().then_some(()));
}

#[test]
fn an_app_believes_servers_of_other_kinds_by_who_vouches_for_them() {
    let mut flyloft = Flyloft::start();
    let (team, host) = (Authority::new("team"), host_address());
    let right = team.vouch(&host);
    let tls = ["--ssl-cert=DIR/server.crt", "--ssl-key=DIR/server.key", "--require-secure-transport=ON"];
    let mut mariadb = Mariadb::prepared(&tls);
    let mut redis = Redis::prepared(&[
        "aclfile users.acl",
        "port 0",
        "tls-port PORT",
        "tls-cert-file server.crt",
        "tls-key-file server.key",
        "tls-ca-cert-file server.crt",
        "tls-auth-clients no",
    ]);
    let show = |mariadb: &mut Mariadb, redis: &mut Redis, [key, certificate]: &[String; 2]| {
        for (name, text) in [("server.key", key), ("server.crt", certificate)] {
            mariadb.write(name, text);
            redis.write(name, text);
        }
        mariadb.run();
        redis.run();
    };
    show(&mut mariadb, &mut redis, &right);
    let rabbitmq = Rabbitmq::start_encrypted(&right[0], &right[1]);
    forget_servers(&mut flyloft);
    let rediss = redis.url().replace("redis://", "rediss://");
    for (name, kind, url) in
        [("it-maria", "mysql", mariadb.url()), ("it-cache", "redis", rediss), ("it-mq", "rabbitmq", rabbitmq.url())]
    {
        vouch(&flyloft, &["add", name, "--kind", kind], &url.replace("127.0.0.1", &host), &team);
    }
    let repository = flyloft.repository(
        "it-vouched-all",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "pika==1.3.2\nPyMySQL==1.1.1\nredis==5.2.1\n"),
            ("app.json", r#"{"addons": ["mysql", "redis", "rabbitmq"]}"#),
            ("server.py", &format!("{OTHERS}{SERVE}")),
        ],
    );
    repository.pushed(&["main"]);
    let get = |path: &str| flyloft.get("it-vouched-all/main", path).body;
    assert!(get("/mysql").starts_with("TLSv1."), "{}", get("/mysql"));
    assert_eq!([get("/redis"), get("/rabbitmq")], ["True", "open"]);
    let unbelieved = get("/redis/without");
    assert!(unbelieved.contains("CERTIFICATE_VERIFY_FAILED"), "{unbelieved}");
    let env = "it-vouched-all/main";
    let mysql = || with_input(&flyloft, &["services", "mysql", env], "SHOW STATUS LIKE 'Ssl_version';\n");
    let redis_cli = || with_input(&flyloft, &["services", "redis-cli", env], "PING\n");
    assert!(text(&mysql()).contains("TLSv1."), "{}", text(&mysql()));
    assert_eq!(text(&redis_cli()), "PONG\n");

    // Somebody else at their addresses.
    mariadb.stop();
    redis.stop();
    show(&mut mariadb, &mut redis, &Authority::new("other").vouch(&host));
    for path in ["/mysql", "/redis"] {
        assert!(get(path).contains("CERTIFICATE_VERIFY_FAILED"), "{}", get(path));
    }
    for refused in [mysql(), redis_cli()] {
        let told = text(&refused).to_lowercase();
        assert!(told.contains("certificate") && !told.contains("tlsv1.") && !told.contains("pong"), "{told}");
    }
    mariadb.stop();
    redis.stop();
    show(&mut mariadb, &mut redis, &right);
    flyloft.ok(&["destroy", "it-vouched-all", "--yes"]);
    for name in ["it-maria", "it-cache", "it-mq"] {
        wait_for("the server to go", || flyloft.cli(&["services", "rm", name]).status.success().then_some(()));
    }
}
