//! What apps, and forks of them, have in common, and what each has for itself.

use super::*;

#[tokio::test]
async fn an_app_that_is_removed_takes_its_caches_along_and_nobody_elses() {
    let test = Test::flask();
    let caches = |names: &[&str]| names.iter().map(|&name| CacheId(name.to_owned())).collect::<Vec<_>>();
    let others = ["shop-python-python", "shop-2-build", "shopping-node"];
    *test.engine.caches.lock().unwrap() = caches(&["shop-python", "shop-build3", "shop-node17-fork-4"]);
    test.engine.caches.lock().unwrap().extend(caches(&others));
    test.builder.forget_caches_of(&test.request.app).await.unwrap();
    assert_eq!(*test.engine.caches.lock().unwrap(), caches(&others));
}

#[tokio::test]
async fn a_fork_reads_what_the_app_has_installed_and_writes_for_itself_alone() {
    let mut test = Test::flask();
    test.build().await;
    test.request.trust = Trust::Fork(17);
    assert_eq!(test.makes().await, ["app"]);
    test = test.file("requirements.txt", "flask\ngunicorn\nevil\n");
    assert_eq!(test.makes().await, ["Python packages with pip", "app"]);
    assert_eq!(test.step("Python packages").caches[0].0.0, "shop-python-fork-17");
}

#[tokio::test]
async fn nobody_else_gets_what_a_fork_has_installed() {
    let mut test = Test::flask();
    test.request.trust = Trust::Fork(17);
    test.build().await;
    for other in [Trust::Fork(18), Trust::Own] {
        test.request.trust = other;
        assert_eq!(test.makes().await, ["Python packages with pip", "app"]);
    }
}

#[tokio::test]
async fn another_app_with_the_same_files_has_layers_and_caches_of_its_own() {
    let mut test = Test::flask();
    test.build().await;
    test.request.app = AppName::parse("blog").unwrap();
    assert_eq!(test.makes().await, ["Python packages with pip", "app"]);
    assert_eq!(test.step("Python packages").caches[0].0.0, "blog-python");
}
