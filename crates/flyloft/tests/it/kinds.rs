//! Services of each other kind, with the server of Debian's and a client in a container.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::data::with_input;
use crate::harness::{Flyloft, text, wait_for};
use crate::mariadb::Mariadb;
use crate::rabbitmq::Rabbitmq;
use crate::redis::{self, Redis};
use crate::servers::{add, forget_servers, host_address};

/// What serves the rest of its path to `answer`, and says what went wrong.
pub const SERVE: &str = r#"
import http.server, os, socket

def reach(host, port):
    socket.create_connection((host, int(port)), 5)
    return "open"

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        words = self.path.strip("/").split("/")
        try:
            body = reach(*words[1:]) if words[0] == "reach" else answer(words)
        except Exception as error:
            body = f"{type(error).__name__}: {error}"
        body = str(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const REDIS: &str = r#"
import os, redis

def answer(words):
    client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, socket_timeout=5)
    match words:
        case ["set", key, value]:
            return client.set(os.environ["REDIS_PREFIX"] + key, value)
        case ["get", key]:
            return client.get(os.environ["REDIS_PREFIX"] + key)
        case ["peek", key]:
            return client.get(key)
        case ["job", text]:
            jobs = redis.Redis.from_url(os.environ["JOBS_URL"], decode_responses=True, socket_timeout=5)
            jobs.rpush("jobs", text)
            return " ".join(jobs.keys("*"))
"#;

pub const MYSQL: &str = r#"
import os, urllib.parse, pymysql

def answer(words):
    url = urllib.parse.urlsplit(os.environ["DATABASE_URL"])
    at = dict(host=url.hostname, port=url.port, user=url.username, password=url.password, connect_timeout=5)
    database = words[1] if words[0] == "at" else url.path.strip("/")
    with pymysql.connect(database=database, autocommit=True, **at) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS notes (text VARCHAR(20))")
        if words[0] == "add":
            cursor.execute("INSERT INTO notes VALUES (%s)", [words[1]])
        cursor.execute("SELECT text FROM notes")
        return " ".join(row[0] for row in cursor)
"#;

const RABBITMQ: &str = r#"
import os, pika

def answer(words):
    parameters = pika.URLParameters(os.environ["CLOUDAMQP_URL"])
    parameters.socket_timeout = parameters.blocked_connection_timeout = 5
    if words[0] == "at":
        parameters.virtual_host = words[1]
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare("jobs", durable=True)
    if words[0] == "add":
        lasting = pika.BasicProperties(delivery_mode=2)
        channel.confirm_delivery()
        channel.basic_publish("", "jobs", words[1], lasting)
    _, _, body = channel.basic_get("jobs", auto_ack=words[0] == "take")
    connection.close()
    return body.decode() if body else "nothing"
"#;

#[test]
fn an_app_has_keys_in_a_redis_that_nobody_else_gets_at_and_that_go_with_its_environment() {
    let mut flyloft = Flyloft::start();
    let mut redis = Redis::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-cache", "valkey", &redis.url().replace("127.0.0.1", &host_address()));
    let app_json = r#"{"addons": ["heroku-redis:mini",
        {"plan": "rediscloud", "as": "JOBS", "options": {"isolation": "database"}}]}"#;
    let repository = flyloft.repository(
        "it-cached",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "redis==5.2.1\n"),
            ("app.json", app_json),
            ("server.py", &format!("{REDIS}{SERVE}")),
        ],
    );
    let pushed = repository.pushed(&["main", "main:other"]);
    assert!(pushed.contains("-----> Redis on server it-cache"), "{pushed}");
    assert_eq!(flyloft.get("it-cached/main", "/set/a/hello").body, "True");
    assert_eq!(flyloft.get("it-cached/main", "/get/a").body, "hello");
    assert_eq!(flyloft.get("it-cached/main", "/job/mail").body, "jobs");
    assert_eq!(flyloft.get("it-cached/other", "/get/a").body, "None");
    let prefix = flyloft.ok(&["run", "it-cached/main", "--", "printenv", "REDIS_PREFIX"]);
    let peeked = flyloft.get("it-cached/other", &format!("/peek/{}a", prefix.trim())).body;
    assert!(peeked.starts_with("NoPermissionError"), "{peeked}");
    let looked =
        with_input(&flyloft, &["services", "redis-cli", "it-cached/main"], &format!("GET {}a\n", prefix.trim()));
    assert_eq!(String::from_utf8_lossy(&looked.stdout), "hello\n", "{}", text(&looked));
    flyloft.ok(&["off", "it-cached/main"]);
    flyloft.ok(&["wake", "it-cached/main"]);
    assert_eq!(flyloft.get("it-cached/main", "/get/a").body, "hello", "kept while it is off");
    let reach = format!("/reach/{}/{}", host_address(), redis.port);
    assert_eq!(flyloft.get("it-cached/other", &reach).body, "open");
    flyloft.ok(&["set", "it-cached/other", "services=none"]);
    flyloft.ok(&["restart", "it-cached/other"]);
    let closed = flyloft.get("it-cached/other", &reach).body;
    assert!(closed.contains("Error"), "the way is closed: {closed}");

    redis.stop();
    flyloft.ok(&["destroy", "it-cached", "--yes"]);
    redis.run();
    assert_eq!(redis.ask("ACL USERS").matches("flyloft_").count(), 4, "it was down");
    flyloft.stop();
    flyloft.serve();
    wait_for("the users to go", || (!redis.ask("ACL USERS").contains("flyloft_")).then_some(()));
    assert_eq!(redis.ask("INFO keyspace"), "# Keyspace", "and their keys");
    assert!(redis::ask(&redis.url(), "PING").is_ok());
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-cache"]).status.success().then_some(()));
}

#[test]
fn an_app_has_a_database_of_mariadb_that_nobody_else_gets_at_and_that_goes_with_its_environment() {
    let mut flyloft = Flyloft::start();
    let mut mariadb = Mariadb::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-maria", "mariadb", &mariadb.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.repository(
        "it-posts",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "PyMySQL==1.1.1\n"),
            ("app.json", r#"{"addons": ["jawsdb-maria:kitefin"]}"#),
            ("server.py", &format!("{MYSQL}{SERVE}")),
        ],
    );
    let pushed = repository.pushed(&["main", "main:other"]);
    assert!(pushed.contains("-----> Database on server it-maria"), "{pushed}");
    assert_eq!(flyloft.get("it-posts/main", "/add/hello").body, "hello");
    assert_eq!(flyloft.get("it-posts/other", "/").body, "");
    let name = flyloft.ok(&["run", "it-posts/main", "--", "printenv", "MYSQL_DATABASE"]);
    let refused = flyloft.get("it-posts/other", &format!("/at/{}", name.trim())).body;
    assert!(refused.contains("Access denied"), "{refused}");
    let looked = with_input(&flyloft, &["services", "mysql", "it-posts/main"], "SELECT text FROM notes;\n");
    assert_eq!(String::from_utf8_lossy(&looked.stdout), "text\nhello\n", "{}", text(&looked));
    let dump = flyloft.ok(&["services", "dump", "it-posts/main"]);
    assert!(dump.contains("INSERT INTO `notes` VALUES"), "{dump}");
    flyloft.ok(&["off", "it-posts/main"]);
    flyloft.ok(&["wake", "it-posts/main"]);
    assert_eq!(flyloft.get("it-posts/main", "/").body, "hello", "kept while it is off");

    mariadb.stop();
    flyloft.ok(&["destroy", "it-posts", "--yes"]);
    mariadb.run();
    let left = || mariadb.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'flyloft%'");
    assert_eq!(left(), "2", "it was down");
    flyloft.stop();
    flyloft.serve();
    wait_for("the databases to go", || (left() == "0").then_some(()));
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-maria"]).status.success().then_some(()));
    assert_eq!(mariadb.sql("SHOW DATABASES LIKE 'flyloft%'"), "flyloft_labels");
}

#[test]
fn databases_of_mariadb_begin_with_a_template_or_a_copy_and_people_dump_restore_and_reset_them() {
    let mut flyloft = Flyloft::start();
    let mariadb = Mariadb::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-maria", "mysql", &mariadb.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.repository(
        "it-seeds",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "PyMySQL==1.1.1\n"),
            ("app.json", r#"{"addons": ["mysql"]}"#),
            ("server.py", &format!("{MYSQL}{SERVE}")),
        ],
    );
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-seeds/main", "/add/hello").body, "hello");
    // What says who has made it, which nobody else may say.
    let more = "CREATE VIEW seen AS SELECT text FROM notes;
        CREATE PROCEDURE more() INSERT INTO notes VALUES ('by procedure');
        CREATE TRIGGER small BEFORE INSERT ON notes FOR EACH ROW SET NEW.text = LOWER(NEW.text);\n";
    let made = with_input(&flyloft, &["services", "mysql", "it-seeds/main"], more);
    assert!(made.status.success(), "{}", text(&made));
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("main.sql");
    let file = file.to_str().unwrap();
    flyloft.ok(&["services", "dump", "it-seeds/main", file]);
    let template = flyloft.ok(&["services", "template", "it-maria", "it_seed", "--from-dump", file]);
    assert!(template.contains("ask for it with services=mysql@it_seed"), "{template}");
    flyloft.ok(&["apps", "set", "it-seeds", "services=mysql@it_seed"]);
    repository.pushed(&["main:seeded"]);
    assert_eq!(flyloft.get("it-seeds/seeded", "/add/MORE").body, "hello more", "the trigger is there");
    let called = with_input(&flyloft, &["services", "mysql", "it-seeds/seeded"], "CALL more(); SELECT * FROM seen;\n");
    assert!(text(&called).contains("by procedure"), "{}", text(&called));
    let reset = flyloft.ok(&["services", "reset", "it-seeds/seeded", "--yes"]);
    assert!(reset.contains("has fresh data") && reset.contains("=====> Deployed"), "{reset}");
    assert_eq!(flyloft.get("it-seeds/seeded", "/").body, "hello");

    assert_eq!(flyloft.get("it-seeds/main", "/add/own").body, "hello own");
    flyloft.ok(&["apps", "set", "it-seeds", "services=mysql@it-seeds/main"]);
    // Somebody is in the middle of something there.
    let busy = flyloft.command(&["services", "mysql", "it-seeds/main"]).stdin(Stdio::piped()).spawn();
    let mut busy = busy.unwrap();
    let mut says = busy.stdin.take().unwrap();
    says.write_all(b"BEGIN; INSERT INTO notes VALUES ('open');\n").unwrap();
    let open = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0";
    wait_for("it to be under way", || {
        // Who asks more often than ten times a second is told again what was so before (InnoDB's INNODB_TRX).
        std::thread::sleep(Duration::from_millis(200));
        (mariadb.sql(open) == "1").then_some(())
    });
    repository.pushed(&["main:copied"]);
    assert_eq!(flyloft.get("it-seeds/copied", "/").body, "hello own");
    says.write_all(b"COMMIT;\n").unwrap();
    drop(says);
    assert!(busy.wait().unwrap().success());
    assert_eq!(flyloft.get("it-seeds/main", "/").body, "hello own open", "nobody was cut");
    let broken = "CREATE TABLE a (b INT);\nSELEC 1;\n";
    let broken = with_input(&flyloft, &["services", "restore", "it-seeds/copied", "-", "--yes"], broken);
    assert!(!broken.status.success() && text(&broken).contains("what was there is there still"), "{}", text(&broken));
    assert_eq!(flyloft.get("it-seeds/copied", "/").body, "hello own");
    flyloft.ok(&["services", "restore", "it-seeds/copied", file, "--yes"]);
    assert_eq!(flyloft.get("it-seeds/copied", "/").body, "hello");

    // What a daemon does not bring to its end that dies in the middle, the next attempt does.
    for (place, has) in [("service.aside", "hello"), ("service.emptied", "")] {
        flyloft.kill();
        flyloft.fault(place);
        flyloft.serve();
        assert!(!flyloft.cli(&["services", "reset", "it-seeds/copied", "--yes"]).status.success());
        flyloft.died();
        flyloft.serve();
        assert_eq!(flyloft.get("it-seeds/copied", "/").body, has);
    }
    flyloft.ok(&["services", "reset", "it-seeds/copied", "--yes"]);
    assert_eq!(flyloft.get("it-seeds/copied", "/").body, "hello own open");

    flyloft.ok(&["destroy", "it-seeds", "--yes"]);
    flyloft.ok(&["services", "template", "it-maria", "it_seed", "--rm"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-maria"]).status.success().then_some(()));
    assert_eq!(mariadb.sql("SHOW DATABASES LIKE 'flyloft%'"), "flyloft_labels");
    assert_eq!(mariadb.sql("SELECT COUNT(*) FROM flyloft_labels.labels"), "0");
}

#[test]
fn a_copy_in_the_middle_of_which_a_mariadb_goes_down_is_made_whole_by_the_next_deploy() {
    let mut flyloft = Flyloft::start();
    let mut mariadb = Mariadb::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-maria", "mysql", &mariadb.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.repository(
        "it-halved",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "PyMySQL==1.1.1\n"),
            ("app.json", r#"{"addons": ["mysql"]}"#),
            ("server.py", &format!("{MYSQL}{SERVE}")),
        ],
    );
    repository.pushed(&["main"]);
    assert_eq!(flyloft.get("it-halved/main", "/add/hello").body, "hello");
    flyloft.ok(&["apps", "set", "it-halved", "services=mysql@it-halved/main"]);
    // Somebody has what is to be copied to himself, so that the copy waits for it.
    let holder = flyloft.command(&["services", "mysql", "it-halved/main"]).stdin(Stdio::piped()).spawn();
    let mut holder = holder.unwrap();
    let mut says = holder.stdin.take().unwrap();
    says.write_all(b"LOCK TABLES notes WRITE;\n").unwrap();
    let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE LIKE 'Waiting for table%lock'";
    let told = std::thread::scope(|scope| {
        let push = scope.spawn(|| repository.rejected(&["main:copied"]));
        wait_for("the copy to be under way", || (mariadb.sql(waiting) == "1").then_some(()));
        mariadb.stop();
        push.join().unwrap()
    });
    assert!(told.contains("server `it-maria` at ") && told.contains("cannot be reached"), "{told}");
    assert!(told.contains("try: flyloft services check it-maria"), "{told}");
    drop(says);
    holder.wait().unwrap();
    mariadb.run();
    repository.pushed(&["main:copied"]);
    assert_eq!(flyloft.get("it-halved/copied", "/").body, "hello");
    flyloft.ok(&["destroy", "it-halved", "--yes"]);
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-maria"]).status.success().then_some(()));
    assert_eq!(mariadb.sql("SELECT COUNT(*) FROM flyloft_labels.labels"), "0");
}

#[test]
fn an_app_has_queues_in_a_rabbitmq_that_nobody_else_gets_at_and_that_go_with_its_environment() {
    let mut flyloft = Flyloft::start();
    let mut rabbitmq = Rabbitmq::start();
    forget_servers(&mut flyloft);
    add(&flyloft, "it-mq", "rabbitmq", &rabbitmq.url().replace("127.0.0.1", &host_address()));
    let repository = flyloft.repository(
        "it-queued",
        &[
            ("Procfile", "web: python3 server.py\n"),
            ("requirements.txt", "pika==1.3.2\n"),
            ("app.json", r#"{"addons": ["cloudamqp:lemur"]}"#),
            ("server.py", &format!("{RABBITMQ}{SERVE}")),
        ],
    );
    let pushed = repository.pushed(&["main", "main:other"]);
    assert!(pushed.contains("-----> RabbitMQ on server it-mq"), "{pushed}");
    assert_eq!(flyloft.get("it-queued/main", "/add/mail").body, "mail");
    assert_eq!(flyloft.get("it-queued/other", "/peek").body, "nothing");
    let name = flyloft.ok(&["run", "it-queued/main", "--", "printenv", "RABBITMQ_VHOST"]);
    let refused = flyloft.get("it-queued/other", &format!("/at/{}", name.trim())).body;
    assert!(refused.contains("NOT_ALLOWED"), "{refused}");
    let managed = format!("/reach/{}/{}", host_address(), rabbitmq.management);
    let closed = flyloft.get("it-queued/main", &managed).body;
    assert!(closed.contains("Error"), "the way to where it is managed is closed: {closed}");
    flyloft.ok(&["off", "it-queued/main"]);
    flyloft.ok(&["wake", "it-queued/main"]);
    assert_eq!(flyloft.get("it-queued/main", "/take").body, "mail", "kept while it is off");

    rabbitmq.stop();
    flyloft.ok(&["destroy", "it-queued", "--yes"]);
    rabbitmq.run();
    assert_eq!(rabbitmq.left(), 4, "it was down");
    flyloft.stop();
    flyloft.serve();
    wait_for("the virtual hosts to go", || (rabbitmq.left() == 0).then_some(()));
    wait_for("the server to go", || flyloft.cli(&["services", "rm", "it-mq"]).status.success().then_some(()));
}
