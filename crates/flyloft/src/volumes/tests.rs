//! Volumes of environments on an engine in memory.

use flyloft_core::lifecycle::Event;
use flyloft_core::name::{EnvRef, Origin};
use flyloft_core::volume::{Ask, MountPath, TemplateName};

use super::*;
use crate::conductor::Conductor;
use crate::deploy::{Again, Deployed};
use crate::engine::Engine;
use crate::engine::lxc::tree::Usage;
use crate::loft::stage::{Stage, content, web_server};

fn ask(path: &str, size: Option<u64>, template: Option<&str>) -> Ask {
    let template = template.map(|name| TemplateName::parse(name).unwrap());
    Ask { path: MountPath::parse(path).unwrap(), size: size.map(Size), template }
}

/// Of a commit that asks for these.
async fn build(stage: &Stage, volumes: &[Ask]) -> Result<Deployed> {
    build_in(stage, &stage.env().await.1, volumes).await
}

async fn build_in(stage: &Stage, conductor: &Conductor, volumes: &[Ask]) -> Result<Deployed> {
    let json = serde_json::json!({"flyloft": {"volumes": volumes}}).to_string();
    let commit = stage.commit("main", &[("Procfile", "web: serve"), ("app.json", &json)]).await;
    stage.build(conductor, &commit).await
}

/// Of what asked for these.
async fn launch(stage: &Stage, again: Again, volumes: &[Ask]) -> Result<Deployed> {
    stage.launch_content(again, Content { volumes: volumes.to_vec(), ..content(&[("web", "serve")]) }).await
}

/// Where what serves has volumes, which, and how large they may be.
async fn has(stage: &Stage) -> Vec<(String, String, u64)> {
    let live = stage.env().await.0.live.expect("it serves");
    let volumes = stage.engine.spec(&live.container).volumes;
    volumes.into_iter().map(|volume| (volume.path, volume.id.0, volume.size)).collect()
}

async fn names(stage: &Stage) -> Vec<String> {
    stage.engine.volumes().await.unwrap().into_iter().map(|id| id.0).collect()
}

async fn template(stage: &Stage, name: &str, bytes: u64) {
    let (env, _) = stage.env().await;
    let name = TemplateName::parse(name).unwrap();
    let row = stage.store().begin_volume_template(&env.name.app, name, 1).await.unwrap().unwrap();
    stage.engine.fill_volume(&of_template(&row), Filling::CopyOf(VolumeId("none".to_owned()))).await.unwrap();
    stage.engine.grow_volume(&of_template(&row), Usage { bytes, inodes: 1 });
    stage.store().volume_template_is_ready(row.id).await.unwrap();
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn what_a_release_asks_for_is_made_once_and_outlives_it() {
    let stage = Stage::new().await;
    let asks = [ask("/app/uploads", Some(7 * MIB), None), ask("/data", None, None)];
    build(&stage, &asks).await.unwrap();
    let told = stage.told(1).await;
    assert!(told.contains("-----> Volume at /app/uploads of 7MiB\n"), "{told}");
    let first = has(&stage).await;
    let disk = (5 << 30) - 7 * MIB;
    assert_eq!(first, [("/app/uploads".into(), "volume-1".into(), 7 * MIB), ("/data".into(), "volume-2".into(), disk)]);
    let live = stage.env().await.0.live.unwrap();
    assert!(stage.engine.spec(&live.container).volumes.iter().all(|volume| volume.counts), "its files are its own");
    // Nor does it go with a release that does not ask for it, or is another size then.
    build(&stage, &[ask("/data", Some(MIB), None)]).await.unwrap();
    assert_eq!(has(&stage).await, first);
    assert_eq!(names(&stage).await, ["volume-1", "volume-2"]);
}

#[tokio::test]
async fn what_was_taken_away_comes_back_with_the_next_build_alone_and_is_another_one() {
    let stage = Stage::new().await;
    let asks = [ask("/data", None, None)];
    build(&stage, &asks).await.unwrap();
    stage.store().remove_volume(1).await.unwrap();
    sweep(&stage.loft.parts).await;
    assert_eq!(names(&stage).await, ["volume-1"], "a container has it still");
    for again in [Again::Restart, Again::Config, Again::Rollback] {
        launch(&stage, again, &asks).await.unwrap();
        assert_eq!(has(&stage).await, []);
    }
    sweep(&stage.loft.parts).await;
    assert_eq!(names(&stage).await, Vec::<String>::new());
    build(&stage, &asks).await.unwrap();
    assert_eq!(has(&stage).await[0].1, "volume-2");
}

#[tokio::test]
async fn nobody_is_given_more_than_the_disk_may_take_by_a_file() {
    let stage = Stage::new().await;
    build(&stage, &[ask("/data", Some(100 << 40), None)]).await.unwrap();
    assert_eq!(has(&stage).await[0].2, 5 << 30);
    let told = stage.told(1).await;
    assert!(told.contains("`app.json` asks for 100TiB; the environment's disk may take 5GiB"), "{told}");
}

#[tokio::test]
async fn what_a_file_asks_for_fits_into_the_disk_with_what_it_was_given_before_and_people_give_more() {
    let stage = Stage::new().await;
    let sized = |path, size: u64| ask(path, Some(size << 30), None);
    let sizes = async || has(&stage).await.into_iter().map(|(path, _, size)| (path, size >> 30)).collect::<Vec<_>>();
    build(&stage, &[sized("/a", 3), ask("/b", None, None), ask("/c", None, None)]).await.unwrap();
    let first = [("/a".to_owned(), 3), ("/b".to_owned(), 1), ("/c".to_owned(), 1)];
    assert_eq!(sizes().await, first);
    let error = build(&stage, &[sized("/d", 1)]).await.unwrap_err();
    insta::assert_snapshot!(error.text(), @r"
    error: `shop/main` cannot have the volumes that it is to have: `app.json` asks for volumes of at least 1GiB beside those of 5GiB that it has been given, and may have 5GiB in all, as much as the environment's disk
      hint: ask for a smaller `size` of each in `app.json`
      hint: `flyloft volumes ls shop/main` lists those that are there; `flyloft volumes rm` takes one away
      hint: what people add, or give another size, does not count: flyloft volumes add shop/main PATH --size SIZE
      hint: or let its disk take more: flyloft set shop/main disk=SIZE
    ");
    assert_eq!(stage.store().volumes().await.unwrap().len(), 3);
    // Nor do those of people, who may give as much as they like.
    let (env, _) = stage.env().await;
    let by_hand =
        NewVolume { env: env.id, path: ask("/e", None, None).path, size: 9 << 30, template: None, asked: None };
    assert!(stage.store().add_volume(by_hand, 1).await.unwrap());
    build(&stage, &[]).await.unwrap();
    stage.store().resize_volume(1, 8 << 30).await.unwrap();
    build(&stage, &[sized("/d", 2), sized("/e", 1)]).await.unwrap();
    let rest = [("/d".to_owned(), 2), ("/e".to_owned(), 9)];
    assert_eq!(sizes().await, [&[("/a".to_owned(), 8)][..], &first[1..], &rest].concat());
    assert!(build(&stage, &[sized("/f", 2)]).await.is_err());
}

#[tokio::test]
async fn what_a_deploy_that_is_called_off_has_made_goes_but_for_what_people_have_made_theirs() {
    let stage = Stage::new().await;
    let (env, conductor) = stage.env().await;
    let asks = [ask("/a", Some(MIB), None), ask("/b", Some(MIB), None)];
    // It waits then until something listens.
    stage.engine.listen(vec![]);
    let called_off = async {
        let error = build_in(&stage, &conductor, &asks).await.unwrap_err();
        assert!(error.what.contains("superseded by v2"), "{error:?}");
        stage.engine.listen(vec![web_server().await]);
    };
    let meanwhile = async {
        stage.wait_until("both are there", async || stage.store().volumes().await.unwrap().len() == 2).await;
        stage.store().resize_volume(1, 2 * MIB).await.unwrap();
        build_in(&stage, &conductor, &[]).await.unwrap();
    };
    tokio::join!(called_off, meanwhile);
    assert_eq!(has(&stage).await, [("/a".to_owned(), "volume-1".to_owned(), 2 * MIB)]);
    let left: Vec<_> = stage.store().volumes_of(env.id).await.unwrap().iter().map(|row| row.id).collect();
    assert_eq!(left, [1]);
}

#[tokio::test]
async fn an_older_release_that_wakes_has_nothing_that_a_newer_one_asks_for() {
    let stage = Stage::new().await;
    let (env, conductor) = stage.env().await;
    build(&stage, &[ask("/data", Some(MIB), None)]).await.unwrap();
    let before = has(&stage).await;
    // As while the newer one is on its way.
    let asked = Some(ReleaseNumber(2));
    let newer = NewVolume { env: env.id, path: ask("/newer", None, None).path, size: MIB, template: None, asked };
    stage.store().add_volume(newer, 1).await.unwrap();
    stage.clear(&conductor).await;
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    assert_eq!(has(&stage).await, before);
    launch(&stage, Again::Restart, &[]).await.unwrap();
    assert_eq!(has(&stage).await.len(), 2);
}

#[tokio::test]
async fn a_pull_request_has_what_environments_review_asks_for_path_by_path() {
    let stage = Stage::new().await;
    let (_, branch) = stage.env().await;
    let name = EnvRef::parse("shop/pr-7").unwrap();
    let (_, request) = stage.loft.ensure(&name, &Origin::PullRequest(7)).await.unwrap();
    let json = r#"{"flyloft": {"volumes": [{"path": "/a", "size": "1GiB"}, "/b"]}, "environments": {"review": {"flyloft":
        {"volumes": [{"path": "/a", "size": "2GiB"}, {"path": "/c", "size": "1GiB"}]}}}}"#;
    let commit = stage.commit("main", &[("Procfile", "web: serve"), ("app.json", json)]).await;
    for conductor in [&branch, &request] {
        stage.build(conductor, &commit).await.unwrap();
    }
    let (env, _) = stage.loft.find(&name).await.unwrap();
    let volumes = stage.engine.spec(&env.live.unwrap().container).volumes;
    let sizes: Vec<_> = volumes.into_iter().map(|volume| (volume.path, volume.size >> 30)).collect();
    assert_eq!(sizes, [("/a".to_owned(), 2), ("/b".to_owned(), 2), ("/c".to_owned(), 1)]);
    let of_branch: Vec<_> = has(&stage).await.into_iter().map(|(path, _, size)| (path, size >> 30)).collect();
    assert_eq!(of_branch, [("/a".to_owned(), 1), ("/b".to_owned(), 4)]);
}

#[tokio::test]
async fn volumes_go_with_their_environment_and_those_of_others_stay() {
    let stage = Stage::new().await;
    let asks = [ask("/data", None, None)];
    build(&stage, &asks).await.unwrap();
    let (_, other) = stage.branch("other").await;
    build_in(&stage, &other, &asks).await.unwrap();
    assert_eq!(names(&stage).await, ["volume-1", "volume-2"]);
    let (_, conductor) = stage.env().await;
    conductor.tell(Event::Destroy).await.unwrap();
    conductor.gone().await;
    stage.wait_until("its volume is gone", async || names(&stage).await == ["volume-2"]).await;
    sweep(&stage.loft.parts).await;
    assert_eq!(names(&stage).await, ["volume-2"]);
}

#[tokio::test]
async fn a_volume_starts_with_its_template_once() {
    let stage = Stage::new().await;
    template(&stage, "seed", 3 * MIB).await;
    let asks = [ask("/data", Some(4 * MIB), Some("seed"))];
    build(&stage, &asks).await.unwrap();
    assert!(stage.told(1).await.contains("-----> Volume at /data starts with template seed\n"));
    let volume = VolumeId("volume-1".to_owned());
    assert_eq!(stage.engine.volume(&volume).await.unwrap().bytes, 3 * MIB);
    stage.engine.grow_volume(&volume, Usage { bytes: MIB, inodes: 1 });
    build(&stage, &asks).await.unwrap();
    assert_eq!(stage.engine.volume(&volume).await.unwrap().bytes, MIB, "it was filled anew");
    assert!(!stage.told(2).await.contains("template"));
}

#[tokio::test]
async fn a_template_that_is_not_there_or_does_not_fit_is_an_error_that_says_what_to_do_and_can_be_mended() {
    let stage = Stage::new().await;
    let asks = [ask("/data", Some(MIB), Some("seed"))];
    let error = build(&stage, &asks).await.unwrap_err();
    assert!(error.what.ends_with("with template `seed`: there is no such template"), "{error:?}");
    assert!(error.hints[0].contains("flyloft volumes templates add shop seed FILE.tar"), "{error:?}");
    template(&stage, "seed", 2 * MIB).await;
    let error = build(&stage, &asks).await.unwrap_err();
    assert!(error.what.ends_with("it has 2.0 MiB, and the volume may take 1MiB"), "{error:?}");
    let of_seed = |inodes| {
        stage.engine.grow_volume(&VolumeId("template-1".to_owned()), Usage { bytes: 2 * MIB, inodes });
    };
    of_seed(500_001);
    let error = build(&stage, &[ask("/data", Some(3 * MIB), Some("seed"))]).await.unwrap_err();
    assert!(error.what.ends_with("it has 500001 files, and `shop/main` may have 500000"), "{error:?}");
    of_seed(500_000);
    // Nothing of either is left, so that another size can be asked for.
    assert_eq!(stage.store().volumes().await.unwrap(), []);
    build(&stage, &[ask("/data", Some(3 * MIB), Some("seed"))]).await.unwrap();
    let [row] = &stage.store().volumes().await.unwrap()[..] else { panic!("more than one volume") };
    assert_eq!(stage.engine.volume(&of(row)).await.unwrap().bytes, 2 * MIB);
}

#[tokio::test]
async fn what_a_deploy_that_fails_has_made_does_not_stand_in_the_way_of_the_next_one() {
    let stage = Stage::new().await;
    let asks = [ask("/data", Some(MIB), None), ask("/var/link", Some(MIB), None)];
    build(&stage, &asks[..1]).await.unwrap();
    let first = has(&stage).await;
    // As where a link leads there.
    stage.engine.fail("create", 1);
    assert!(build(&stage, &asks).await.is_err());
    assert_eq!(stage.calls("create"), 2);
    assert_eq!(stage.store().volumes().await.unwrap().len(), 1);
    launch(&stage, Again::Restart, &[]).await.unwrap();
    assert_eq!(has(&stage).await, first);
}

#[tokio::test]
async fn what_a_deploy_could_not_take_back_goes_with_the_next_one_unless_that_asks_for_it() {
    let stage = Stage::new().await;
    let ask = |path| ask(path, Some(MIB), None);
    build(&stage, &[ask("/kept")]).await.unwrap();
    stage.engine.fail("create", 1);
    build(&stage, &[ask("/left")]).await.unwrap_err();
    // As where its daemon was killed.
    let (env, _) = stage.env().await;
    let left = |path| {
        let asked = Some(ReleaseNumber(2));
        NewVolume { env: env.id, path: ask(path).path, size: MIB, template: None, asked }
    };
    for path in ["/left", "/again"] {
        assert!(stage.store().add_volume(left(path), 1).await.unwrap());
    }
    let paths = async || has(&stage).await.into_iter().map(|(path, ..)| path).collect::<Vec<_>>();
    build(&stage, &[ask("/again")]).await.unwrap();
    assert_eq!(paths().await, ["/again", "/kept"]);
    assert_eq!(names(&stage).await.len(), 2);
    build(&stage, &[]).await.unwrap();
    assert_eq!(paths().await, ["/again", "/kept"], "a release has served with it");
    // So it does where nothing is built.
    assert!(stage.store().add_volume(left("/left"), 1).await.unwrap());
    launch(&stage, Again::Restart, &[]).await.unwrap();
    assert_eq!(paths().await, ["/again", "/kept"]);
}

#[tokio::test]
async fn what_a_script_has_put_into_a_volume_that_is_taken_back_it_puts_there_again() {
    let stage = Stage::new().await;
    stage.engine.fail("create", 1);
    build(&stage, &[]).await.unwrap_err();
    let ((env, _), store) = (stage.env().await, stage.store());
    for (at, is_done) in [(store::now(), false), (1, true)] {
        let path = ask("/data", None, None).path;
        let asked = ReleaseNumber(1);
        let new = NewVolume { env: env.id, path: path.clone(), size: MIB, template: None, asked: Some(asked) };
        assert!(store.add_volume(new, 1).await.unwrap());
        store.set_postdeployed(env.id, Some(at)).await.unwrap();
        store.forget_asked_volume(env.id, path, ReleaseNumber(2)).await.unwrap();
        assert!(store.is_postdeployed(env.id).await.unwrap(), "that is another one's");
        store.forget_asked_volume(env.id, ask("/data", None, None).path, asked).await.unwrap();
        assert_eq!(store.is_postdeployed(env.id).await.unwrap(), is_done, "it had run at {at}");
    }
}

#[tokio::test]
async fn a_volume_that_was_half_filled_is_filled_anew() {
    let stage = Stage::new().await;
    template(&stage, "seed", MIB).await;
    stage.engine.fail("fill volume", 1);
    let asks = [ask("/data", None, Some("seed"))];
    assert!(build(&stage, &asks).await.is_err());
    build(&stage, &asks).await.unwrap();
    let [row] = &stage.store().volumes().await.unwrap()[..] else { panic!("more than one volume") };
    assert_eq!(stage.engine.volume(&of(row)).await.unwrap().bytes, MIB);
}

#[tokio::test]
async fn what_is_yet_to_be_filled_no_container_has_also_where_a_visit_makes_one_anew() {
    let stage = Stage::new().await;
    let (env, conductor) = stage.env().await;
    build(&stage, &[]).await.unwrap();
    // As where the deploy fails that was to have it.
    let Ask { path, template: seed, .. } = ask("/data", None, Some("seed"));
    let new = NewVolume { env: env.id, path, size: 4 * MIB, template: seed, asked: None };
    assert!(stage.store().add_volume(new, 1).await.unwrap());
    assert!(launch(&stage, Again::Restart, &[]).await.is_err(), "there is no such template");
    stage.clear(&conductor).await;
    conductor.visit("GET /".to_owned()).await;
    stage.wait_for_state("awake v1").await;
    assert_eq!(has(&stage).await, [], "it goes on as it was");
    template(&stage, "seed", MIB).await;
    launch(&stage, Again::Restart, &[]).await.unwrap();
    assert_eq!(has(&stage).await, [("/data".to_owned(), "volume-1".to_owned(), 4 * MIB)]);
    assert_eq!(stage.engine.volume(&VolumeId("volume-1".to_owned())).await.unwrap().bytes, MIB);
}

#[tokio::test]
async fn volumes_that_would_lie_within_each_other_keep_a_release_from_serving() {
    let stage = Stage::new().await;
    build(&stage, &[ask("/data", None, None)]).await.unwrap();
    let error = build(&stage, &[ask("/data/x", None, None)]).await.unwrap_err();
    assert!(error.what.contains("volumes do not lie within each other"), "{error:?}");
    assert_eq!(has(&stage).await.len(), 1);
}
