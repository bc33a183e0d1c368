//! Databases on a real PostgreSQL, for environments on an engine in memory.

mod faults;
mod mysql;
mod rabbitmq;
mod redis;
mod way;

use flyloft_core::lifecycle::{Depth, Event};
use flyloft_core::name::{EnvRef, Origin};
use flyloft_core::service::{Kind, ServerUrl, TemplateName};
use tokio_postgres::NoTls;

use super::data::Among;
use super::sleepers::Sleepers;
use super::*;
use crate::conductor::Conductor;
use crate::deploy::{Again, Deployed};
use crate::loft::stage::{Stage, content, in_time};
use crate::service::bench::Postgres;
use crate::store::{Content, Forgotten, Scope};

/// An administrator who may do no more than is needed.
const APT: &str = "CREATE ROLE apt LOGIN CREATEDB CREATEROLE PASSWORD 'x'";

struct Bench {
    stage: Stage,
    postgres: Postgres,
}

impl Bench {
    async fn new() -> Self {
        Self::on(Postgres::start()).await
    }

    async fn on(postgres: Postgres) -> Self {
        let stage = Stage::new().await;
        postgres.sql(APT);
        let bench = Self { stage, postgres };
        let url = format!("postgres://apt@127.0.0.1:{}", bench.postgres.port);
        let (url, _) = ServerUrl::parse(Kind::Postgres, &url).unwrap();
        let password = bench.parts().vault.seal(&server_purpose("pg"), "x");
        let row = ServerRow { name: "pg".to_owned(), url, password, ca: None, managed: None, created_at: 1 };
        assert!(bench.stage.store().add_server(row).await.unwrap());
        bench
    }

    fn parts(&self) -> &Arc<Parts> {
        &self.stage.loft.parts
    }

    async fn deploy(&self, branch: &str) -> Result<Deployed> {
        let (_, conductor) = self.stage.branch(branch).await;
        self.stage.launch_in(&conductor, Again::Rollback, asking("postgres")).await
    }

    async fn env(&self, branch: &str) -> (EnvRow, Conductor) {
        self.stage.branch(branch).await
    }

    /// What the container that serves finds.
    async fn variables(&self, branch: &str) -> BTreeMap<String, String> {
        let live = self.env(branch).await.0.live.expect("it serves");
        self.stage.engine.spec(&live.container).env
    }

    async fn destroy(&self, branch: &str) {
        let (_, conductor) = self.env(branch).await;
        conductor.tell(Event::Destroy).await.unwrap();
        conductor.gone().await;
    }

    /// Puts it to sleep, and waits until that is noted.
    async fn sleep(&self, branch: &str) {
        let (_, conductor) = self.env(branch).await;
        conductor.tell(Event::Sleep { depth: Depth::Shallow }).await.unwrap();
        let is_noted = async || self.env(branch).await.0.memory.down_since.is_some();
        self.stage.wait_until("it is noted to sleep", is_noted).await;
    }

    async fn connect(&self, branch: &str) -> tokio_postgres::Client {
        let url = &self.variables(branch).await["DATABASE_URL"];
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
        client
    }

    /// Connections of environments that the server has.
    fn connections(&self) -> String {
        self.postgres.sql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'flyloft%'")
    }

    /// How often the server was asked to end some.
    fn hung_up(&self) -> usize {
        self.postgres.log().matches("pg_terminate_backend(there.pid)").count()
    }

    async fn turn_until(&self, sleepers: &mut Sleepers, connections: &str) {
        let turning = async {
            while self.connections() != connections {
                sleepers.turn(self.parts()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time("connections are ended", turning).await;
    }

    /// Databases and roles of ours that the server has.
    fn made(&self) -> String {
        self.postgres.sql(
            "SELECT (SELECT count(*) FROM pg_database WHERE datname LIKE 'flyloft%') || ' ' ||
                (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'flyloft%')",
        )
    }

    async fn strays(&self) -> usize {
        self.stage.store().stray_services().await.unwrap().len()
    }
}

fn asking(services: &str) -> Content {
    let mut settings = Settings::default();
    settings.assign(&format!("services={services}")).unwrap();
    Content { settings, ..content(&[("web", "serve")]) }
}

/// What a statement does for an app.
async fn sql(url: &str, statement: &str) -> Result<String, String> {
    let told = |error: tokio_postgres::Error| {
        error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
    };
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.map_err(told)?;
    tokio::spawn(connection);
    let rows = client.simple_query(statement).await.map_err(told)?;
    let cell = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(rows.iter().filter_map(cell).collect::<Vec<_>>().join(" "))
}

#[tokio::test]
async fn an_environment_gets_a_database_of_its_own_once_and_keeps_it() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    let told = bench.stage.told(1).await;
    assert!(told.contains("-----> Database on server pg\n"), "{told}");
    let first = bench.variables("main").await;
    let url = &first["DATABASE_URL"];
    assert!(first["PGDATABASE"].starts_with("flyloft_shop_main_"), "{first:?}");
    assert_eq!(first["PGUSER"], first["PGDATABASE"]);
    assert_eq!(first["PGPORT"], bench.postgres.port.to_string());
    sql(url, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('hello')").await.unwrap();
    assert!(!bench.postgres.log().contains(&first["PGPASSWORD"]), "the server's log has the password");

    bench.deploy("main").await.unwrap();
    assert_eq!(&bench.variables("main").await["DATABASE_URL"], url);
    assert_eq!(sql(url, "SELECT text FROM notes").await.unwrap(), "hello");
    assert_eq!(bench.made(), "1 1");
    let limit = bench.postgres.sql("SELECT rolconnlimit FROM pg_roles WHERE rolname LIKE 'flyloft%'");
    assert_eq!(limit, CONNECTIONS.to_string());
}

#[tokio::test]
async fn nobody_gets_at_the_database_of_another_environment() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    bench.deploy("other").await.unwrap();
    let (main, other) = (bench.variables("main").await, bench.variables("other").await);
    assert_ne!(main["PGDATABASE"], other["PGDATABASE"]);
    let (url, _) = other["DATABASE_URL"].rsplit_once('/').unwrap();
    let crossed = format!("{url}/{}", main["PGDATABASE"]);
    let refused = sql(&crossed, "SELECT 1").await.unwrap_err();
    assert!(refused.starts_with("permission denied for database"), "{refused}");
    let refused = sql(&other["DATABASE_URL"], &format!("DROP DATABASE {}", main["PGDATABASE"])).await.unwrap_err();
    assert!(refused.starts_with("must be owner of database"), "{refused}");
}

#[tokio::test]
async fn what_people_set_goes_before_a_service_and_a_service_before_app_json() {
    let bench = Bench::new().await;
    let defaults = BTreeMap::from([("DATABASE_URL".to_owned(), "sqlite:".to_owned())]);
    let content =
        || Content { config: defaults.clone(), defaults: defaults.clone(), ..asking("postgres,postgres:REPORTS") };
    let (env, conductor) = bench.env("main").await;
    bench.stage.launch_in(&conductor, Again::Config, content()).await.unwrap();
    let variables = bench.variables("main").await;
    assert!(variables["DATABASE_URL"].starts_with("postgres://"), "{variables:?}");
    assert_ne!(variables["DATABASE_URL"], variables["REPORTS_URL"]);
    sql(&variables["REPORTS_URL"], "SELECT 1").await.unwrap();
    assert_eq!(bench.made(), "2 2");

    let set = BTreeMap::from([("DATABASE_URL".to_owned(), Some("mysql://elsewhere".to_owned()))]);
    bench.stage.store().set_variables(&env.name.app, Scope::Environment(env.id), set).await.unwrap();
    bench.stage.launch_in(&conductor, Again::Config, content()).await.unwrap();
    assert_eq!(bench.variables("main").await["DATABASE_URL"], "mysql://elsewhere");
}

#[tokio::test]
async fn a_destroyed_environment_takes_its_database_along_whoever_is_connected() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    let (client, connection) =
        tokio_postgres::connect(&bench.variables("main").await["DATABASE_URL"], NoTls).await.unwrap();
    tokio::spawn(connection);
    client.simple_query("BEGIN; CREATE TABLE open (a int)").await.unwrap();
    bench.destroy("main").await;
    bench.stage.wait_until("nothing is left", async || bench.strays().await == 0).await;
    assert_eq!(bench.made(), "0 0");
    assert!(client.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn what_sleeps_holds_no_connection_after_a_while_and_what_is_awake_keeps_its_own() {
    let bench = Bench::new().await;
    let mut clients = Vec::new();
    for branch in ["main", "other", "third"] {
        bench.deploy(branch).await.unwrap();
        clients.extend([bench.connect(branch).await, bench.connect(branch).await]);
    }
    bench.sleep("main").await;
    bench.sleep("other").await;
    let mut sleepers = Sleepers::new(Duration::from_secs(60));
    sleepers.turn(bench.parts()).await.unwrap();
    assert_eq!((bench.connections().as_str(), bench.hung_up()), ("6", 0), "they have rested for a moment only");

    let mut sleepers = Sleepers::new(Duration::from_millis(200));
    bench.turn_until(&mut sleepers, "2").await;
    for (client, is_open) in clients.iter().zip([false, false, false, false, true, true]) {
        assert_eq!(client.simple_query("SELECT 1").await.is_ok(), is_open);
    }
    let hung_up = bench.hung_up();
    for _ in 0..3 {
        sleepers.turn(bench.parts()).await.unwrap();
    }
    assert_eq!(bench.hung_up(), hung_up, "what sleeps on is asked about no more");
    Sleepers::new(Duration::ZERO).turn(bench.parts()).await.unwrap();
    assert_eq!(bench.hung_up(), hung_up + 1, "all of a server's at once");
}

#[tokio::test]
async fn a_server_that_is_down_is_asked_again_and_what_has_woken_is_left_alone() {
    let mut bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    bench.sleep("main").await;
    let mut sleepers = Sleepers::new(Duration::ZERO);
    bench.postgres.stop();
    sleepers.turn(bench.parts()).await.unwrap();
    bench.postgres.run();
    let _client = bench.connect("main").await;
    bench.turn_until(&mut sleepers, "0").await;

    bench.env("main").await.1.wake("tester").await.unwrap();
    let is_awake = async || bench.env("main").await.0.memory.down_since.is_none();
    bench.stage.wait_until("it has woken", is_awake).await;
    let _client = bench.connect("main").await;
    let hung_up = bench.hung_up();
    Sleepers::new(Duration::ZERO).turn(bench.parts()).await.unwrap();
    assert_eq!((bench.connections().as_str(), bench.hung_up()), ("1", hung_up));
}

#[tokio::test]
async fn a_connection_on_which_something_has_just_happened_is_not_ended() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    let client = bench.connect("main").await;
    let row = bench.stage.store().services().await.unwrap().remove(0);
    let (server, label) = (server_of(bench.parts(), &row).await.unwrap(), label(bench.parts(), &row));
    let postgres = bench.parts().services.of(Kind::Postgres);
    let hang_up = async |label: &Label, quiet| postgres.hang_up(&server, std::slice::from_ref(label), quiet).await;
    assert_eq!(hang_up(&label, Duration::from_secs(60)).await.unwrap(), [row.name.as_str()]);
    client.simple_query("SELECT 1").await.unwrap();
    let stranger = Label { text: "payroll".to_owned(), ..label.clone() };
    assert!(hang_up(&stranger, Duration::ZERO).await.unwrap().is_empty());
    client.simple_query("SELECT 1").await.unwrap();
    assert!(hang_up(&label, Duration::ZERO).await.unwrap().is_empty());
    assert!(client.simple_query("SELECT 1").await.is_err());

    // Nor one on which a statement runs: the other one goes, which makes it wait.
    let (holder, runner) = (bench.connect("main").await, bench.connect("main").await);
    let wait = "SELECT pg_advisory_lock(1)";
    holder.simple_query(wait).await.unwrap();
    let hanging_up = async {
        let runs = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'advisory'";
        bench.stage.wait_until("it runs", async || bench.postgres.sql(runs) == "1").await;
        assert_eq!(hang_up(&label, Duration::ZERO).await.unwrap(), [row.name.as_str()]);
    };
    let (ran, ()) = tokio::join!(runner.simple_query(wait), hanging_up);
    ran.unwrap();
    assert!(holder.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn nobody_is_cut_off_who_works_with_what_sleeps() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    bench.sleep("main").await;
    let (env, _) = bench.env("main").await;
    let owned = data::owned(bench.parts(), &env, Among::Everything, None).await.unwrap();
    let programs = data::programs(bench.parts(), &owned).unwrap();
    let client = client::Client::open(bench.parts(), &owned.server, &programs).await.unwrap();
    let at_prompt = bench.connect("main").await;
    let mut sleepers = Sleepers::new(Duration::ZERO);
    sleepers.turn(bench.parts()).await.unwrap();
    at_prompt.simple_query("SELECT 1").await.unwrap();
    drop(client);
    bench.turn_until(&mut sleepers, "0").await;
}

#[tokio::test]
async fn what_a_server_that_was_down_still_has_goes_when_it_is_up_again() {
    let mut bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    bench.deploy("other").await.unwrap();
    bench.postgres.stop();
    bench.destroy("main").await;
    sweep(bench.parts()).await;
    assert_eq!(bench.strays().await, 1);
    let refused = bench.stage.store().forget_server("pg").await.unwrap();
    assert_eq!(refused, Forgotten::Used(vec![bench.env("other").await.0.name], 1));
    bench.postgres.run();
    assert_eq!(bench.made(), "2 2");
    sweep(bench.parts()).await;
    assert_eq!((bench.strays().await, bench.made().as_str()), (0, "1 1"));
    bench.destroy("other").await;
    bench.stage.wait_until("nothing is left", async || bench.strays().await == 0).await;
    assert_eq!(bench.stage.store().forget_server("pg").await.unwrap(), Forgotten::Gone);
}

#[tokio::test]
async fn what_is_not_ours_is_neither_used_nor_dropped() {
    let bench = Bench::new().await;
    let (env, _) = bench.env("main").await;
    let name = Ask::new(Kind::Postgres, None).unwrap().name_for(&env.name, "1f3a9c", env.id.0);
    for theirs in [format!("CREATE ROLE {name}"), format!("CREATE ROLE {name}; COMMENT ON ROLE {name} IS 'payroll'")] {
        bench.postgres.sql(&theirs);
        let error = bench.deploy("main").await.unwrap_err().text();
        assert!(error.contains("has a role `flyloft_shop_main_") && error.contains("that is not ours"), "{error}");
        assert!(error.contains("nothing was done to it"), "{error}");
        assert_eq!(bench.made(), "0 1");
        bench.postgres.sql(&format!("DROP ROLE {name}"));
    }
    bench.postgres.sql(&format!("CREATE DATABASE {name}"));
    let error = bench.deploy("main").await.unwrap_err().text();
    assert!(error.contains("has a database `flyloft_shop_main_"), "{error}");
    assert_eq!(bench.made(), "1 0");
    bench.destroy("main").await;
    sweep(bench.parts()).await;
    assert_eq!((bench.made().as_str(), bench.strays().await), ("1 0", 1));
}

#[tokio::test]
async fn what_was_cut_off_in_the_middle_is_brought_to_its_end() {
    let bench = Bench::new().await;
    let (env, _) = bench.env("main").await;
    let name = Ask::new(Kind::Postgres, None).unwrap().name_for(&env.name, "1f3a9c", env.id.0);
    let role = format!("CREATE ROLE {name}; COMMENT ON ROLE {name} IS 'flyloft 1f3a9c {name}'");
    bench.postgres.sql(&role);
    bench.postgres.sql(&format!("CREATE DATABASE {name} OWNER {name}"));
    bench.deploy("main").await.unwrap();
    sql(&bench.variables("main").await["DATABASE_URL"], "SELECT 1").await.unwrap();
    let open =
        "SELECT has_database_privilege('public', datname, 'CONNECT') FROM pg_database WHERE datname LIKE 'flyloft%'";
    assert_eq!(bench.postgres.sql(open), "f");
    assert_eq!(bench.made(), "1 1");
}

#[tokio::test]
async fn two_that_want_the_same_at_once_make_it_once() {
    let bench = Bench::new().await;
    let (env, _) = bench.env("main").await;
    let asks = vec![Ask::new(Kind::Postgres, None).unwrap()];
    let parts = bench.parts();
    let all = (0..4).map(|_| provide(parts, &env, &asks));
    for made in futures_util::future::join_all(all).await {
        made.unwrap();
    }
    assert_eq!(bench.made(), "1 1");
    assert_eq!(bench.stage.store().services_of(env.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_container_may_reach_the_servers_that_it_was_given_and_follows_them() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    let (env, conductor) = bench.env("main").await;
    let reach = || bench.stage.engine.spec(&env.live.as_ref().unwrap().container).reach.allow;
    let at = |address: &str| vec![SocketAddr::new(address.parse().unwrap(), bench.postgres.port)];
    assert_eq!(reach(), at("127.0.0.1"));
    follow(bench.parts()).await.unwrap();
    bench.stage.sql("UPDATE servers SET url = replace(url, '127.0.0.1', '[::1]')");
    follow(bench.parts()).await.unwrap();
    assert_eq!(reach(), at("::1"));
    bench.stage.launch_in(&conductor, Again::Rollback, asking("none")).await.unwrap();
    bench.stage.sql("UPDATE servers SET url = replace(url, '[::1]', '127.0.0.1')");
    follow(bench.parts()).await.unwrap();
    let (env, _) = bench.env("main").await;
    let spec = bench.stage.engine.spec(&env.live.unwrap().container);
    assert!(spec.reach.allow.is_empty() && !spec.env.contains_key("DATABASE_URL"), "{spec:?}");
    assert_eq!(bench.made(), "1 1", "what it had is kept until it is destroyed");
}

#[tokio::test]
async fn what_cannot_be_dropped_keeps_nothing_else_from_being_dropped() {
    let bench = Bench::new().await;
    for branch in ["first", "second"] {
        bench.deploy(branch).await.unwrap();
    }
    let (first, conductor) = bench.env("first").await;
    let name = bench.parts().store.services_of(first.id).await.unwrap()[0].name.clone();
    bench.postgres.sql(&format!("COMMENT ON ROLE \"{name}\" IS NULL; COMMENT ON DATABASE \"{name}\" IS NULL"));
    let (_, second) = bench.env("second").await;
    for conductor in [conductor, second] {
        conductor.tell(Event::Destroy).await.unwrap();
        conductor.gone().await;
    }
    bench.stage.wait_until("the second's is gone", async || bench.made() == "1 1").await;
    let strays = async || bench.parts().store.stray_services().await.unwrap().len();
    bench.stage.wait_until("the first's is on record alone", async || strays().await == 1).await;
}

#[tokio::test]
async fn where_a_server_is_now_is_told_until_nobody_has_the_way_to_where_it_was() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    let (env, _) = bench.env("main").await;
    let reach = || bench.stage.engine.spec(&env.live.as_ref().unwrap().container).reach.allow;
    let at = |address: &str| vec![SocketAddr::new(address.parse().unwrap(), bench.postgres.port)];
    follow(bench.parts()).await.unwrap();
    bench.stage.sql("UPDATE servers SET url = replace(url, '127.0.0.1', '[::1]')");
    bench.stage.engine.fail("allow", 1);
    follow(bench.parts()).await.unwrap();
    assert_eq!(reach(), at("127.0.0.1"));
    follow(bench.parts()).await.unwrap();
    assert_eq!(reach(), at("::1"));
    let calls = bench.stage.calls("allow");
    follow(bench.parts()).await.unwrap();
    assert_eq!(bench.stage.calls("allow"), calls, "nothing has moved");
}

#[tokio::test]
async fn app_json_of_a_pull_request_has_the_templates_of_its_own_app_alone() {
    let bench = Bench::new().await;
    let row = bench.parts().store.server("pg").await.unwrap().unwrap();
    let server = opened(bench.parts(), row).await.unwrap();
    for name in ["shop_seed", "cart_seed"] {
        let name = TemplateName::parse(name).unwrap();
        let template = data::begin_template(bench.parts(), server.clone(), &name).await.unwrap();
        data::fill_template(template, &mut &b"CREATE TABLE a (b int);"[..]).await.unwrap();
    }
    let name = EnvRef::parse("shop/pr-7").unwrap();
    bench.stage.store().create_app(&name.app, None, 1).await.unwrap();
    let (_, conductor) = bench.stage.loft.ensure(&name, &Origin::PullRequest(7)).await.unwrap();
    let launch = async |services: &str| bench.stage.launch_in(&conductor, Again::Rollback, asking(services)).await;
    insta::assert_snapshot!(launch("postgres@cart_seed").await.unwrap_err().text(), @r"
    error: `app.json` asks for `postgres@cart_seed`, a template that is not its app's
      hint: whoever may use the app can: flyloft apps set shop services=postgres@cart_seed
      hint: or name one whose name begins with that of the app, as `shop_seed`
    ");
    launch("postgres@shop_seed").await.unwrap();

    // Nor has it another one's by a reset, where what people had set for it is there no more.
    let (env, _) = bench.stage.loft.find(&name).await.unwrap();
    let owned = data::owned(bench.parts(), &env, Among::Everything, None).await.unwrap();
    for other in ["postgres@cart_seed", "postgres@shop/main"] {
        let refused = data::renew(bench.parts(), &env, &owned, &asking(other).settings).await.unwrap_err();
        assert!(refused.what.starts_with(&format!("`app.json` asks for `{other}`, ")), "{refused:?}");
    }
}

#[tokio::test]
async fn a_database_begins_with_the_data_that_people_ask_for_and_has_them_again_when_it_is_reset() {
    let bench = Bench::new().await;
    bench.deploy("main").await.unwrap();
    let main = bench.variables("main").await["DATABASE_URL"].clone();
    sql(&main, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('hello')").await.unwrap();
    let (env, conductor) = bench.env("other").await;
    let refused = bench.stage.launch_in(&conductor, Again::Rollback, asking("postgres@shop/main")).await.unwrap_err();
    insta::assert_snapshot!(refused.text(), @r"
    error: `app.json` asks for `postgres@shop/main`, the data of another environment
      hint: whoever may use the app can: flyloft apps set shop services=postgres@shop/main
      hint: or name a template
    ");
    assert_eq!(bench.made(), "1 1");

    let app = &env.name.app;
    let set = async |services: &str| {
        bench.stage.store().set_app_settings(app, &asking(services).settings).await.unwrap();
        bench.stage.loft.reload(app, None).await.unwrap();
    };
    for (wrong, said) in [
        ("postgres@shop/nowhere", "`shop/nowhere` has no postgres whose data `shop/other` could begin with"),
        ("postgres@shop_seed", "there is no template `shop_seed`"),
        ("postgres@cart/main", "`shop/other` asks for the data of another app's `cart/main`"),
    ] {
        set(wrong).await;
        assert_eq!(bench.deploy("other").await.unwrap_err().what, said);
    }
    set("postgres@shop/main").await;
    bench.deploy("main").await.unwrap();
    bench.deploy("other").await.unwrap();
    let other = bench.variables("other").await["DATABASE_URL"].clone();
    assert_eq!(sql(&other, "INSERT INTO notes VALUES ('more'); SELECT text FROM notes").await.unwrap(), "hello more");
    assert_eq!(sql(&main, "SELECT text FROM notes").await.unwrap(), "hello");

    let (env, _) = bench.env("other").await;
    let owned = data::owned(bench.parts(), &env, Among::Everything, None).await.unwrap();
    let renew = || data::renew(bench.parts(), &env, &owned, &env.asked);
    let (one, another) = tokio::join!(renew(), renew());
    one.unwrap();
    assert_eq!(another.unwrap_err().what, "its data are being replaced already");
    assert_eq!(sql(&other, "SELECT text FROM notes").await.unwrap(), "hello");
    assert_eq!(bench.made(), "2 2");
}

#[tokio::test]
async fn a_template_that_was_not_finished_goes_and_so_does_one_that_is_removed_while_its_server_is_down() {
    let mut bench = Bench::new().await;
    let server = || async {
        let row = bench.parts().store.server("pg").await.unwrap().unwrap();
        opened(bench.parts(), row).await.unwrap()
    };
    let name = TemplateName::parse("shop_seed").unwrap();
    let templates = || bench.postgres.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'flyloft_template%'");
    let make = async || {
        let template = data::begin_template(bench.parts(), server().await, &name).await?;
        data::fill_template(template, &mut &b"CREATE TABLE a (b int);"[..]).await
    };
    // The engine in memory restores nothing, but fails if it is told to.
    bench.stage.engine.fail("exec", 1);
    make().await.unwrap_err();
    bench.stage.wait_until("it is gone", async || templates() == "0").await;
    bench
        .stage
        .wait_until("its record is, too", async || !bench.parts().store.has_templates("pg").await.unwrap())
        .await;

    make().await.unwrap();
    let again = make().await.unwrap_err();
    assert_eq!(again.what, "there is a template `shop_seed` already");
    assert_eq!(templates(), "1");
    let is_gone = async || bench.stage.containers().await.is_empty();
    bench.stage.wait_until("no client's container is left", is_gone).await;
    bench.postgres.stop();
    data::drop_template(bench.parts(), "pg", &name).await.unwrap();
    sweep(bench.parts()).await;
    bench.postgres.run();
    assert!(bench.parts().store.has_templates("pg").await.unwrap());
    sweep(bench.parts()).await;
    assert_eq!((bench.made().as_str(), bench.parts().store.has_templates("pg").await.unwrap()), ("0 0", false));
}

#[tokio::test]
async fn without_a_server_of_that_kind_app_json_gets_a_note_and_whoever_set_it_an_error() {
    let stage = Stage::new().await;
    let (env, conductor) = stage.env().await;
    stage.launch_in(&conductor, Again::Rollback, asking("postgres")).await.unwrap();
    let told = stage.told(1).await;
    assert!(told.contains("-----> No postgres service, which `app.json` asks for\n"), "{told}");
    stage.store().set_app_settings(&env.name.app, &asking("postgres").settings).await.unwrap();
    stage.loft.reload(&env.name.app, None).await.unwrap();
    let error = stage.launch_in(&conductor, Again::Rollback, asking("none")).await.unwrap_err();
    insta::assert_snapshot!(error.text(), @r"
    error: `shop/main` asks for postgres, and there is no server of that kind
      hint: an admin tells of one: flyloft services add NAME --kind postgres --url -
      hint: or has flyloft run one: flyloft services add NAME --kind postgres --managed
      hint: or do without: flyloft set shop/main services=none
    ");
}
