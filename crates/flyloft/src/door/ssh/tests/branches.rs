//! Names of branches, the odd ones above all.

use super::*;

#[tokio::test]
async fn a_clone_has_a_branch_checked_out_whatever_it_is_called() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main:trunk"]).await;
    let copy = team.path("copy");
    team.run(team.git("bot", team.dir.path()).args(["clone", "-q", &team.url("shop")]).arg(&copy)).await;
    assert!(copy.join("app.py").exists());
}

#[tokio::test]
async fn a_branch_that_git_could_not_keep_beside_another_is_refused_before_it_is_staged() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    team.push("bot", &project, "shop", &["main:feature/login"]).await;
    for refs in [&["main:feature"][..], &["main:feature/login/x"], &["main:new", "main:new/one"]] {
        let push = team.push("bot", &project, "shop", refs).await;
        assert_eq!(push.code, 1);
        assert!(push.stderr.contains("cannot be there beside branch"), "{refs:?}: {}", push.stderr);
    }
    assert_eq!(team.pushed().len(), 1);
    team.push("bot", &project, "shop", &[":feature/login"]).await;
    assert_eq!(team.push("bot", &project, "shop", &["main:feature"]).await.code, 0);
}

#[tokio::test]
async fn branch_names_that_git_allows_arrive_as_they_are() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let long = "x".repeat(240);
    for name in ["$(touch pwned)", "a;id|cat&", "🎭/🚀", "`id`", "'quote\"", "ünï", &long] {
        let refspec = format!("main:refs/heads/{}", name.replace(' ', "_"));
        let push = team.push("bot", &project, "shop", &[&refspec]).await;
        assert_eq!(push.code, 0, "{name}: {}", push.stderr);
        assert_eq!(team.pushed().last().unwrap().2, [name.replace(' ', "_")]);
    }
}

#[tokio::test]
async fn branch_names_that_are_too_long_or_malformed_are_refused() {
    let team = Team::new().await;
    let project = team.project(FILES).await;
    let parts = format!("{}/{}", "x".repeat(150), "y".repeat(150));
    for (name, said) in [("a..b", "invalid refspec"), (&parts, "it has more than 250 bytes"), ("-x", "starts with `-`")]
    {
        let push = team.push("bot", &project, "shop", &[&format!("main:refs/heads/{name}")]).await;
        assert_ne!(push.code, 0, "{name}");
        assert!(push.stderr.contains(said), "{name}: {}", push.stderr);
    }
    assert_eq!(team.pushed(), []);
}
