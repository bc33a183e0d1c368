//! What people read, with an engine in memory.

use flyloft_core::name::{BranchName, EnvRef, Origin};
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

use super::*;
use crate::deploy::Again;
use crate::door::Backend;
use crate::loft::stage::{Stage, content};
use crate::source::{BranchUpdate, Push, Turn};

/// More than anything here prints.
const ROOM: usize = 1 << 20;

mod gates;
mod life;
mod managed;
mod services;
mod settings;
mod tls;
mod why;

struct Desk {
    stage: Stage,
    api: Api,
    ada: Principal,
}

impl Desk {
    /// With the app `shop` and its environment `main`.
    async fn new() -> Self {
        Self::at(Stage::new().await).await
    }

    async fn at(stage: Stage) -> Self {
        stage.env().await;
        let api = Api::new(stage.loft.clone());
        Self { stage, api, ada: Principal { name: "ada".to_owned(), role: Role::Admin } }
    }

    /// The exit code of a command as over SSH, and what it wrote.
    async fn command(&self, words: &[&str]) -> (i32, String) {
        self.command_by(&self.ada, words).await
    }

    async fn command_by(&self, who: &Principal, words: &[&str]) -> (i32, String) {
        self.command_of(who, words, "").await
    }

    /// With something at its standard input.
    async fn command_with(&self, words: &[&str], input: &str) -> (i32, String) {
        self.command_of(&self.ada, words, input).await
    }

    async fn command_of(&self, who: &Principal, words: &[&str], input: &str) -> (i32, String) {
        let (output, reader) = duplex(ROOM);
        let (errors, error_reader) = duplex(ROOM);
        let io = CommandIo {
            stdin: Box::new(std::io::Cursor::new(input.as_bytes().to_vec())),
            stdout: Box::new(output),
            stderr: Box::new(errors),
            terminal: None,
        };
        let argv = words.iter().map(|&word| word.to_owned()).collect();
        let code = Backend::command(&self.api, who, argv, io).await;
        (code, written(reader).await + &written(error_reader).await)
    }
}

/// All that was written by now; whoever wrote it is gone.
async fn written(mut reader: DuplexStream) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn the_deletion_of_a_branch_says_so_where_no_environment_goes_with_it() {
    let desk = Desk::new().await;
    let (app, branch) = (AppName::parse("shop").unwrap(), BranchName::parse("feature/login").unwrap());
    // No environment came of it.
    let old = Some(desk.stage.commit("feature/login", &[]).await);
    let push = Push { updates: vec![BranchUpdate { branch, old, new: None }], quarantine: None, turn: Turn::default() };
    let (output, reader) = duplex(ROOM);
    desk.api.push(&desk.ada, &app, push, Box::new(output)).await.unwrap();
    assert_eq!(written(reader).await, "=====> Branch feature/login had no environment\n");
}

#[tokio::test]
async fn config_without_a_verb_lists_the_variables() {
    let desk = Desk::new().await;
    assert_eq!(desk.command(&["config", "set", "shop", "DEBUG=1"]).await.0, 0);
    assert_eq!(desk.command(&["config", "set", "shop/main", "LEVEL=2"]).await.0, 0);
    assert_eq!(desk.command(&["config", "shop"]).await, (0, "DEBUG=1\n".to_owned()));
    for target in ["shop", "shop/main"] {
        let listed = desk.command(&["config", "ls", target]).await;
        assert_eq!(desk.command(&["config", target]).await, listed);
    }
    let json = desk.command(&["config", "--json", "ls", "shop"]).await;
    assert_eq!(json, (0, "{\n  \"DEBUG\": \"1\"\n}\n".to_owned()));
    assert_eq!(desk.command(&["config", "--json", "shop"]).await, json);
}

#[tokio::test]
async fn a_pull_request_has_what_its_app_shares_and_nothing_else_of_it() {
    let desk = Desk::new().await;
    let name = EnvRef::parse("shop/pr-7").unwrap();
    let (_, conductor) = desk.stage.loft.ensure(&name, &Origin::PullRequest(7)).await.unwrap();
    desk.stage.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
    let variables = async || {
        let (env, _) = desk.stage.loft.find(&name).await.unwrap();
        desk.stage.engine.spec(&env.live.unwrap().container).env
    };
    let set = async |words: &[&str]| {
        let (code, said) = desk.command(&[&["config", "set", "shop"][..], words].concat()).await;
        assert_eq!(code, 0, "{said}");
        said
    };
    set(&["SECRET=s3cret"]).await;
    set(&["MAPS=abc", "--share-with-pull-requests"]).await;
    let found = variables().await;
    assert_eq!((found.get("MAPS").map(String::as_str), found.get("SECRET")), (Some("abc"), None));
    let listed = "MAPS=abc\nSECRET=s3cret\n# shared with pull requests: MAPS\n";
    assert_eq!(desk.command(&["config", "shop"]).await, (0, listed.to_owned()));
    assert_eq!(set(&["MAPS=abc", "--share-with-pull-requests"]).await, "nothing to change\n");
    assert_eq!(desk.command(&["config", "set", "shop/pr-7", "MAPS=own"]).await.0, 0);
    assert_eq!(variables().await["MAPS"], "own");
    assert_eq!(desk.command(&["config", "unset", "shop/pr-7", "MAPS"]).await.0, 0);
    assert_eq!(variables().await["MAPS"], "abc");
    set(&["MAPS=abc"]).await;
    assert_eq!(variables().await.get("MAPS"), None);
    let (code, said) = desk.command(&["config", "set", "shop/pr-7", "A=1", "--share-with-pull-requests"]).await;
    let refused = "error: `shop/pr-7` is an environment: what is shared is an app's";
    assert_eq!((code, said.lines().next()), (2, Some(refused)));
}

#[tokio::test]
async fn what_is_set_for_all_pull_requests_goes_before_what_is_shared_and_nobody_else_has_it() {
    let desk = Desk::new().await;
    let mut envs = vec![EnvRef::parse("shop/main").unwrap()];
    for number in [7, 8] {
        let name = EnvRef::parse(&format!("shop/pr-{number}")).unwrap();
        let (_, conductor) = desk.stage.loft.ensure(&name, &Origin::PullRequest(number)).await.unwrap();
        desk.stage.launch_in(&conductor, Again::Rollback, content(&[("web", "serve")])).await.unwrap();
        envs.push(name);
    }
    desk.stage.deploy().await.unwrap();
    let config = async |words: &[&str]| {
        let (code, said) = desk.command(&[&["config"][..], words].concat()).await;
        assert_eq!(code, 0, "{said}");
        said
    };
    let maps = async || {
        let mut found = Vec::new();
        for name in &envs {
            let (env, _) = desk.stage.loft.find(name).await.unwrap();
            let mut env = desk.stage.engine.spec(&env.live.unwrap().container).env;
            found.push(env.remove("MAPS").unwrap_or_default());
        }
        found
    };
    config(&["set", "shop", "MAPS=shared", "--share-with-pull-requests"]).await;
    let said = config(&["set", "shop", "MAPS=requests", "TEST=1", "--pull-requests"]).await;
    assert!(said.contains("=====> shop/pr-7") && said.contains("=====> shop/pr-8"), "{said}");
    assert!(!said.contains("shop/main"), "what has no part in it is left alone: {said}");
    config(&["set", "shop/pr-8", "MAPS=own"]).await;
    assert_eq!(maps().await, ["shared", "requests", "own"]);
    let listed = "MAPS=shared\n# shared with pull requests: MAPS\n# of all pull requests: MAPS, TEST\n";
    assert_eq!(config(&["shop"]).await, listed);
    assert_eq!(config(&["ls", "shop", "--pull-requests"]).await, "MAPS=requests\nTEST=1\n");
    assert_eq!(config(&["get", "shop", "MAPS", "--pull-requests"]).await, "requests\n");
    assert_eq!(config(&["set", "shop", "TEST=1", "--pull-requests"]).await, "nothing to change\n");
    config(&["unset", "shop", "MAPS", "--pull-requests"]).await;
    assert_eq!(maps().await, ["shared", "shared", "own"]);

    let (code, said) = desk.command(&["config", "set", "shop/pr-7", "A=1", "--pull-requests"]).await;
    let refused = "error: `shop/pr-7` is an environment: what all pull requests have is an app's";
    assert_eq!((code, said.lines().next()), (2, Some(refused)));
    let both = ["config", "set", "shop", "A=1", "--pull-requests", "--share-with-pull-requests"];
    assert_eq!(desk.command(&both).await.0, 2);
    let (code, said) = desk.command(&["config", "get", "shop", "NONE", "--pull-requests"]).await;
    assert_eq!(code, 20, "{said}");
    insta::assert_snapshot!(said, @r"
    error: there is no variable `NONE` of all pull requests of `shop`
      hint: `flyloft config ls shop --pull-requests` lists them
    ");
}

#[tokio::test]
async fn what_app_json_requires_is_taken_from_nothing_that_runs() {
    let desk = Desk::new().await;
    let json = r#"{"env": {"KEY": {"description": "from the provider's console"}, "TOKEN": {"generator": "secret"},
        "HEROKU_APP_NAME": {"required": true}}}"#;
    let commit = desk.stage.commit("main", &[("Procfile", "web: serve"), ("app.json", json)]).await;
    let (env, conductor) = desk.stage.env().await;
    assert!(desk.stage.build(&conductor, &commit).await.is_err(), "nobody has set it");
    let found = async || {
        let (env, _) = desk.stage.env().await;
        let mut env = desk.stage.engine.spec(&env.live.unwrap().container).env;
        ["KEY", "TOKEN"].map(|name| env.remove(name).unwrap_or_default())
    };
    let config = async |words: &[&str]| desk.command(&[&["config"][..], words].concat()).await;
    assert_eq!(config(&["set", "shop", "KEY=1"]).await.0, 0);
    desk.stage.build(&conductor, &commit).await.unwrap();
    let first = found().await;
    assert_eq!((first[0].as_str(), first[1].len()), ("1", 64));

    let (code, said) = config(&["unset", "shop", "KEY"]).await;
    let refused = "error: `app.json` requires the variable `KEY`, and nobody set it
  hint: KEY: from the provider's console
  hint: flyloft config set shop/main KEY=VALUE
  hint: the variables are changed all the same, for the next release; what serves has those that it had
";
    assert!(code == 1 && said.ends_with(refused), "{said}");
    assert_eq!(found().await, first);
    assert!(desk.command(&["restart", "shop/main"]).await.1.contains("`app.json` requires the variable `KEY`"));
    // What it was launched with it has again, and what is set on another level does as well.
    conductor.tell(flyloft_core::lifecycle::Event::Off).await.unwrap();
    conductor.at_rest().await.unwrap();
    conductor.wake("ada").await.unwrap();
    assert_eq!((conductor.settled().await.to_string(), found().await), ("awake v2".to_owned(), first.clone()));
    assert_eq!(config(&["set", "shop/main", "KEY=2"]).await.0, 0);
    assert_eq!(found().await, ["2".to_owned(), first[1].clone()]);
    assert_eq!(config(&["unset", "shop/main", "KEY"]).await.0, 1);
    assert_eq!(desk.command(&["rollback", "shop/main", "v2"]).await.0, 0);
    assert_eq!(found().await, first);

    // What is made at random is made anew.
    assert_eq!(config(&["set", "shop/main", "KEY=3"]).await.0, 0);
    assert_eq!(config(&["unset", "shop/main", "TOKEN"]).await.0, 0);
    let token = found().await[1].clone();
    assert!(token.len() == 64 && token != first[1]);
    assert_eq!(config(&["get", "shop/main", "TOKEN"]).await.1.trim_end(), token);

    // What is built anew has what it is launched with, though something else gave it then.
    let mut content =
        desk.stage.store().live_release(&desk.stage.env().await.0).await.unwrap().unwrap().content.unwrap();
    let number = desk.stage.env().await.0.live.unwrap().release;
    assert!(content.inputs.as_mut().unwrap().variables.remove("KEY").is_some());
    desk.stage.store().set_content(env.id, number, &content).await.unwrap();
    desk.stage.clear(&conductor).await;
    conductor.wake("ada").await.unwrap();
    assert_eq!((conductor.settled().await.to_string(), found().await[0].as_str()), (format!("awake {number}"), "3"));

    // A release that was recorded before that was noted has nothing of it.
    (content.required, content.secrets) = Default::default();
    desk.stage.store().set_content(env.id, number, &content).await.unwrap();
    assert_eq!(config(&["unset", "shop/main", "KEY", "TOKEN"]).await.0, 0);
    assert_eq!(found().await, [String::new(), String::new()]);
}

#[tokio::test]
async fn config_says_what_is_wrong_with_its_words() {
    let desk = Desk::new().await;
    let mut text = String::new();
    for words in ["shop set shop DEBUG=1", "list shop"] {
        let words: Vec<&str> = ["config"].into_iter().chain(words.split(' ')).collect();
        let (code, said) = desk.command(&words).await;
        assert_eq!(code, 2, "{words:?}");
        text.push_str(&said);
    }
    insta::assert_snapshot!(text, @r"
    error: `shop` is named before what is to be done with its variables
      hint: name it after that, as in `flyloft config set shop NAME=VALUE`
    error: unexpected argument 'shop' found

    Usage: flyloft config <TARGET>
           flyloft config <COMMAND>

    For more information, try '--help'.
    ");
    let (code, help) = desk.command(&["config"]).await;
    assert_eq!(code, 2);
    assert!(help.starts_with("Read and set variables of an app or an environment\n"), "{help}");
}

#[tokio::test]
async fn only_an_admin_takes_a_backup_and_over_ssh_it_names_no_file() {
    let desk = Desk::new().await;
    let bot =
        Principal { name: "bot".to_owned(), role: Role::Deployer { apps: vec![AppName::parse("shop").unwrap()] } };
    let (code, said) = desk.command_by(&bot, &["backup"]).await;
    assert_eq!((code, said.lines().next()), (1, Some("error: key `bot` is not an admin's")));
    let (code, said) = desk.command(&["backup", "/etc/motd"]).await;
    assert_eq!((code, said.lines().next()), (2, Some("error: `/etc/motd` would be a file of the server")));
}
