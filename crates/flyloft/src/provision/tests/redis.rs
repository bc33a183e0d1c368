//! The same with a real Redis beside PostgreSQL.

use flyloft_core::service::{Kind, ServerUrl, TemplateName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::way::Way;
use super::*;
use crate::service::redis_bench::{Redis, ask};
use crate::store::NewTemplate;

/// Tells of a server.
pub(super) async fn add(bench: &Bench, name: &str, kind: Kind, url: &str) {
    let (url, password) = ServerUrl::parse(kind, url).unwrap();
    let password = bench.parts().vault.seal(&server_purpose(name), &password);
    let row = ServerRow { name: name.to_owned(), url, password, ca: None, managed: None, created_at: 2 };
    assert!(bench.stage.store().add_server(row).await.unwrap());
}

pub(super) async fn deploy(bench: &Bench, branch: &str, services: &str) -> Result<Deployed> {
    let (_, conductor) = bench.env(branch).await;
    bench.stage.launch_in(&conductor, Again::Rollback, asking(services)).await
}

/// How many users of ours there are.
fn users(redis: &Redis) -> usize {
    redis.ask("ACL USERS").matches("flyloft_").count()
}

#[tokio::test]
async fn an_environment_has_services_of_several_kinds_and_more_than_one_of_a_kind() {
    let bench = Bench::new().await;
    let redis = Redis::start();
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    let asked = "postgres,redis,redis/database:JOBS";
    deploy(&bench, "main", asked).await.unwrap();
    let told = bench.stage.told(1).await;
    assert!(told.contains("-----> Redis on server cache\n"), "{told}");
    let first = bench.variables("main").await;
    assert!(first["DATABASE_URL"].starts_with("postgres://"), "{first:?}");
    assert!(first["REDIS_URL"].ends_with("/1") && first["JOBS_URL"].ends_with("/2"), "{first:?}");
    ask(&first["REDIS_URL"], &format!("SET {}a 1", first["REDIS_PREFIX"])).unwrap();
    ask(&first["JOBS_URL"], "RPUSH jobs mail").unwrap();
    deploy(&bench, "main", asked).await.unwrap();
    assert_eq!(bench.variables("main").await["JOBS_URL"], first["JOBS_URL"], "the same the next time");
    deploy(&bench, "other", asked).await.unwrap();
    assert!(bench.variables("other").await["JOBS_URL"].ends_with("/3"));
    let (env, _) = bench.env("main").await;
    let reach = bench.stage.engine.spec(&env.live.unwrap().container).reach.allow;
    let ports: Vec<u16> = reach.iter().map(SocketAddr::port).collect();
    assert!(reach.len() == 2 && ports.contains(&redis.port) && ports.contains(&bench.postgres.port), "{reach:?}");

    bench.destroy("main").await;
    bench.stage.wait_until("nothing is left", async || bench.strays().await == 0).await;
    assert_eq!((users(&redis), bench.made().as_str()), (2, "1 1"));
    assert_eq!(redis.ask("INFO keyspace"), "# Keyspace");
}

#[tokio::test]
async fn who_asks_for_a_number_where_no_server_gives_one_is_told_which_would() {
    let bench = Bench::new().await;
    let redis = Redis::start();
    add(&bench, "cache", Kind::Redis, &redis.url().replace("/1", "/0")).await;
    let (env, conductor) = bench.env("main").await;
    bench.stage.store().set_app_settings(&env.name.app, &asking("redis/database").settings).await.unwrap();
    bench.stage.loft.reload(&env.name.app, None).await.unwrap();
    let error = bench.stage.launch_in(&conductor, Again::Rollback, asking("none")).await.unwrap_err();
    insta::assert_snapshot!(error.text(), @r"
    error: `shop/main` asks for redis/database, and there is no server that gives numbers: the URL of one ends in another than 0, as in redis://HOST/1
      hint: an admin tells of one: flyloft services add NAME --kind redis --url -
      hint: or has flyloft run one: flyloft services add NAME --kind redis --managed
      hint: or do without: flyloft set shop/main services=none
    ");
}

#[tokio::test]
async fn what_a_server_has_forgotten_is_made_again() {
    let bench = Bench::new().await;
    let mut redis = Redis::start_with(&[]);
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    deploy(&bench, "main", "redis,redis/database:JOBS").await.unwrap();
    let variables = bench.variables("main").await;
    redis.stop();
    remake(bench.parts()).await.unwrap();
    redis.run();
    assert_eq!(users(&redis), 0);
    let refused = ask(&variables["REDIS_URL"], "PING").unwrap_err();
    assert!(refused.contains("WRONGPASS"), "{refused}");
    remake(bench.parts()).await.unwrap();
    for name in ["REDIS_URL", "JOBS_URL"] {
        ask(&variables[name], "PING").unwrap();
    }
}

#[tokio::test]
async fn what_a_redis_that_was_down_still_has_goes_when_it_is_up_again() {
    let bench = Bench::new().await;
    let mut redis = Redis::start();
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    deploy(&bench, "main", "redis").await.unwrap();
    redis.stop();
    let error = deploy(&bench, "other", "redis").await.unwrap_err().text();
    assert!(error.contains("server `cache` at 127.0.0.1:") && error.contains("cannot be reached"), "{error}");
    bench.destroy("main").await;
    sweep(bench.parts()).await;
    assert_eq!(bench.strays().await, 1);
    redis.run();
    assert_eq!(users(&redis), 1);
    sweep(bench.parts()).await;
    assert_eq!((bench.strays().await, users(&redis)), (0, 0));
    deploy(&bench, "other", "redis").await.unwrap();
}

#[tokio::test]
async fn a_redis_that_goes_down_in_the_middle_is_asked_again_and_forgets_what_it_had_not_written_down() {
    let bench = Bench::new().await;
    let mut redis = Redis::start();
    let mut way = Way::to(redis.port).await;
    add(&bench, "cache", Kind::Redis, &redis.url().replace(&redis.port.to_string(), &way.port.to_string())).await;
    for (branch, words, made, is_up_soon) in [("main", "SETUSER", 0, true), ("other", "SAVE", 2, false)] {
        let (_, conductor) = bench.env(branch).await;
        let mut work = std::pin::pin!(bench.stage.launch_in(&conductor, Again::Rollback, asking("redis")));
        tokio::select! {
            ended = &mut work => panic!("it has ended: {ended:?}"),
            () = way.held_up_by(words) => {}
        }
        assert_eq!(users(&redis), made);
        way.shut().await;
        redis.stop();
        if is_up_soon {
            redis.run();
            way.open().await;
            work.await.unwrap();
        } else {
            let error = work.await.unwrap_err().text();
            assert!(error.contains("server `cache` at 127.0.0.1:") && error.contains("cannot be reached"), "{error}");
            redis.run();
            way.open().await;
        }
        assert_eq!(users(&redis), 1);
    }
    deploy(&bench, "other", "redis").await.unwrap();
    for branch in ["main", "other"] {
        // Who waits for an answer here keeps the way from being gone.
        let url = bench.variables(branch).await["REDIS_URL"].replace(&way.port.to_string(), &redis.port.to_string());
        ask(&url, "PING").unwrap();
    }
    assert_eq!(users(&redis), 2);
}

#[tokio::test]
async fn a_redis_without_a_connection_left_is_asked_again_and_told_of_when_that_is_in_vain() {
    const MOST: usize = 4;
    let bench = Bench::new().await;
    let redis = Redis::start_with(&["aclfile users.acl", &format!("maxclients {MOST}")]);
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    let mut held = Vec::new();
    while held.len() < MOST {
        let (mut stream, mut answer) = (TcpStream::connect(("127.0.0.1", redis.port)).await.unwrap(), [0; 64]);
        stream.write_all(b"PING\r\n").await.unwrap();
        let length = stream.read(&mut answer).await.unwrap_or_default();
        // Nobody is let in who has not said who it is, but this one has a connection.
        if answer[..length].starts_with(b"-NOAUTH") {
            held.push(stream);
        }
    }
    let told = deploy(&bench, "main", "redis").await.unwrap_err().text();
    insta::assert_snapshot!(told.replace(&redis.port.to_string(), "PORT"), @r"
    error: server `cache` at 127.0.0.1:PORT has no connection left
      because: ERR max number of clients reached
      hint: raise its `maxclients`, or end what holds them; then: flyloft services check cache
    ");
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(held);
    };
    let (deployed, ()) = tokio::join!(deploy(&bench, "main", "redis"), release);
    deployed.unwrap();
    assert_eq!(users(&redis), 1);
}

#[tokio::test]
async fn a_redis_that_is_to_begin_anew_is_empty_and_still_its_own() {
    let bench = Bench::new().await;
    let redis = Redis::start();
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    let asked = "postgres,redis,redis/database:JOBS";
    deploy(&bench, "main", asked).await.unwrap();
    deploy(&bench, "other", asked).await.unwrap();
    let [main, other] = [bench.variables("main").await, bench.variables("other").await];
    let fill = |of: &BTreeMap<String, String>| {
        ask(&of["REDIS_URL"], &format!("SET {}a 1", of["REDIS_PREFIX"])).unwrap();
        ask(&of["JOBS_URL"], "RPUSH jobs mail").unwrap();
    };
    let left = |of: &BTreeMap<String, String>| {
        let prefixed = ask(&of["REDIS_URL"], &format!("GET {}a", of["REDIS_PREFIX"])).unwrap();
        (prefixed, ask(&of["JOBS_URL"], "DBSIZE").unwrap())
    };
    fill(&main);
    fill(&other);
    let (env, _) = bench.env("main").await;
    for name in ["redis", "JOBS"] {
        let owned = data::owned(bench.parts(), &env, Among::Everything, Some(name)).await.unwrap();
        data::renew(bench.parts(), &env, &owned, &env.asked).await.unwrap();
    }
    assert_eq!(left(&main), (String::new(), "0".to_owned()));
    assert_eq!(left(&other), ("1".to_owned(), "1".to_owned()));
    fill(&main);
    deploy(&bench, "main", asked).await.unwrap();
    let after = bench.variables("main").await;
    assert_eq!([&after["REDIS_URL"], &after["JOBS_URL"]], [&main["REDIS_URL"], &main["JOBS_URL"]]);
    // Of these three, one alone can be written out, or read from a dump.
    let owned = data::owned(bench.parts(), &env, Among::Databases, None).await.unwrap();
    assert_eq!(owned.row.ask.kind, Kind::Postgres);
    let named = data::owned(bench.parts(), &env, Among::Databases, Some("JOBS")).await.unwrap();
    assert_eq!(named.row.ask.kind, Kind::Redis, "who names one is told that it cannot be");
}

#[tokio::test]
async fn a_redis_has_no_templates_and_one_that_was_begun_all_the_same_goes() {
    let bench = Bench::new().await;
    let redis = Redis::start();
    add(&bench, "cache", Kind::Redis, &redis.url()).await;
    let (parts, name) = (bench.parts(), TemplateName::parse("seed").unwrap());
    let server = opened(parts, parts.store.server("cache").await.unwrap().unwrap()).await.unwrap();
    let error = data::begin_template(parts, server.clone(), &name).await.err().unwrap().text();
    assert!(error.contains("is of a kind of which flyloft keeps no data to begin with"), "{error}");
    assert_eq!((parts.store.has_templates("cache").await.unwrap(), users(&redis)), (false, 0));

    // As earlier versions left it.
    deploy(&bench, "main", "redis").await.unwrap();
    let (env, _) = bench.env("main").await;
    let owned = data::owned(parts, &env, Among::Kind(Kind::Redis), None).await.unwrap();
    let database = "flyloft_template_seed".to_owned();
    let text = format!("flyloft {} {database}", parts.settings.instance);
    let label = Label { name: database.clone(), text, number: None };
    parts.services.redis.provide(&server, &Wanted { label, ..owned.wanted }).await.unwrap();
    assert_eq!(users(&redis), 2);
    let (server, kind, password) = ("cache".to_owned(), Kind::Redis, Vec::new());
    let row = NewTemplate { name: name.clone(), server, kind, database, password };
    let row = parts.store.begin_template(row, 3).await.unwrap().unwrap();
    parts.store.drop_template(row.id).await.unwrap();
    sweep(parts).await;
    assert_eq!((parts.store.has_templates("cache").await.unwrap(), users(&redis)), (false, 1));
}
