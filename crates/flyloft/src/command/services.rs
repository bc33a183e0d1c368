//! `flyloft services`: the words of it.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use flyloft_core::name::EnvRef;
use flyloft_core::plan::Stack;
use flyloft_core::policy::Size;
use flyloft_core::service::{Kind, TemplateName};
use serde::{Deserialize, Serialize};

use super::value::Concealed;

#[derive(Clone, Debug, PartialEq, Subcommand, Serialize, Deserialize)]
pub enum Services {
    /// Tell of a server on which environments can have databases and the like. It is tried before it is taken.
    ///
    /// The URL's user must be allowed to make users, and databases where there are such. The password is kept
    /// encrypted, with a key in the daemon's state directory.
    ///
    /// With --managed there is no server yet: its packages of Debian's are installed into a container of its own, which
    /// always runs, and its data are in a volume on this machine, which a backup does not have.
    #[command(after_help = "Examples:
  flyloft services add pg --kind postgres --managed
  pass show pg | flyloft services add pg --kind postgres --url -
  flyloft services add pg --kind postgres --url - --ca ca.pem < url.txt
  cat url.txt ca.pem | ssh -p 2222 host services add pg --kind postgres --url - --ca -
  pass show cache | flyloft services add cache --kind redis --url -")]
    Add(ServicesAdd),
    /// List servers.
    Ls(ServicesLs),
    /// Try whether servers can be reached, and let flyloft do what it has to.
    Check {
        /// A server; all if none is named.
        name: Option<String>,
    },
    /// Tell anew where a server is, and what opens it: its password has changed, or it has moved.
    ///
    /// At another address it has to have all that environments have on it. It is tried before it is taken. Apps find another
    /// address when they are started next.
    #[command(after_help = "Examples:
  pass show pg | flyloft services change pg --url -
  flyloft services change pg --url - --ca new-ca.pem < url.txt")]
    Change(ServicesChange),
    /// Give a server that flyloft runs the newest packages of Debian's, and perhaps more of the machine.
    ///
    /// Its data stay. It is away for some seconds while it is started anew, and who is connected is cut. If it does not
    /// answer then, it is what it was before.
    #[command(after_help = "Examples:
  flyloft services upgrade pg
  flyloft services upgrade pg --memory 2GiB --disk 50GiB
  flyloft services upgrade cache --stack debian-13")]
    Upgrade(ServicesUpgrade),
    /// Forget a server. One that flyloft runs goes, with all its data.
    Rm(ServicesRm),
    /// Put data on a server of PostgreSQL or MariaDB that databases of environments can begin with.
    ///
    /// An app asks for them as in services=postgres@shop_seed, or in its app.json by {"plan": "postgres", "options":
    /// {"template": "shop_seed"}}. Whoever may push to any app can have a copy of them;
    /// `app.json` of a pull request has those alone whose names begin with its app's.
    #[command(after_help = "Examples:
  flyloft services template pg shop_seed --from-dump shop.dump
  pg_dump -Fc shop | ssh -p 2222 host services template pg shop_seed --from-dump -
  flyloft services template pg shop_seed --rm")]
    Template(ServicesTemplate),
    /// Give an environment's database fresh data: those that it begins with, or none.
    ///
    /// All that is in it goes, and whoever is connected is cut, once the new data are whole. Then the environment is
    /// deployed again, so that the Procfile's `release` command and `scripts.postdeploy` of `app.json` find them.
    Reset(ServicesReset),
    /// Open psql for an environment's database, which may sleep.
    Psql(ServicesOne),
    /// Open MariaDB's client, which MySQL's servers know as well, for an environment's database, which may sleep.
    Mysql(ServicesOne),
    /// Open redis-cli as the user of an environment, which may sleep.
    RedisCli(ServicesOne),
    /// Write all that is in an environment's database into a file, as `pg_dump --format=custom` or `mariadb-dump` does.
    #[command(after_help = "Examples:
  flyloft services dump shop/main main.dump
  ssh -p 2222 host services dump shop/main > main.dump")]
    Dump(ServicesDump),
    /// Replace all that is in an environment's database by what a dump says.
    ///
    /// The dump is one of `pg_dump`, in its custom format or as SQL, or of `mariadb-dump`. It is read into another database,
    /// which takes the place of that one when it is whole. Whoever is connected is cut in that moment. MariaDB cannot rename
    /// one: there it is read in once more then.
    #[command(after_help = "Examples:
  flyloft services restore shop/pr-42 main.dump --yes
  ssh -p 2222 host services restore shop/pr-42 - --yes < main.dump")]
    Restore(ServicesRestore),
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(group = ArgGroup::new("what").args(["from_dump", "rm"]).required(true))]
pub struct ServicesTemplate {
    /// The server.
    pub server: String,
    /// What the template is to be called, or is.
    pub name: TemplateName,
    /// A dump of pg_dump, in its custom format or as SQL, or of mariadb-dump or mysqldump; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub from_dump: Option<PathBuf>,
    /// Remove it. What began with it stays.
    #[arg(long)]
    pub rm: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesOne {
    /// APP/ENV.
    pub env: EnvRef,
    /// Which one, by the name that its variable has.
    #[arg(long = "as", value_name = "NAME")]
    pub alias: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesReset {
    /// APP/ENV.
    pub env: EnvRef,
    /// Which one, by the name that its variable has.
    #[arg(long = "as", value_name = "NAME")]
    pub alias: Option<String>,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesDump {
    /// APP/ENV.
    pub env: EnvRef,
    /// The file, which is replaced once the new one is whole; standard output if none is named.
    pub file: Option<PathBuf>,
    /// Which one, by the name that its variable has.
    #[arg(long = "as", value_name = "NAME")]
    pub alias: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesRestore {
    /// APP/ENV.
    pub env: EnvRef,
    /// The dump; `-` is standard input.
    pub file: PathBuf,
    /// Which one, by the name that its variable has.
    #[arg(long = "as", value_name = "NAME")]
    pub alias: Option<String>,
    /// Really replace what is there.
    #[arg(long)]
    pub yes: bool,
}

impl Services {
    /// Whether it is a program for a person at a terminal.
    pub fn is_client(&self) -> bool {
        matches!(self, Services::Psql(_) | Services::Mysql(_) | Services::RedisCli(_))
    }

    /// Whether the first line of standard input is a URL.
    pub fn reads_url(&self) -> bool {
        match self {
            Services::Add(add) => add.reads_url(),
            Services::Change(change) => change.url.0 == "-",
            _ => false,
        }
    }

    /// Whether standard input means something to it.
    pub fn reads_stdin(&self) -> bool {
        match self {
            Services::Add(ServicesAdd { ca, .. }) | Services::Change(ServicesChange { ca, .. }) => {
                self.reads_url() || ca.is_some()
            }
            Services::Template(template) => template.from_dump.is_some(),
            // For the answer to "are you sure", too.
            Services::Restore(_) | Services::Reset(_) | Services::Rm(_) => true,
            client => client.is_client(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[command(group = ArgGroup::new("where").args(["url", "managed"]).required(true))]
pub struct ServicesAdd {
    /// What it is to be called.
    pub name: String,
    /// What it is: postgres, mysql, redis, rabbitmq. MariaDB is mysql, and Valkey redis.
    #[arg(long)]
    pub kind: Kind,
    /// As in postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=require, mysql://USER:PASSWORD@HOST:3306/,
    /// rediss://USER:PASSWORD@HOST:6379/1 or amqp://USER:PASSWORD@HOST:5672?management=15672; `-` takes it from the
    /// first line of standard input, since an argument can be seen by others on the machine, and stays in the shell's
    /// history. What is not a letter, a digit or one of -._~ in the password is escaped, as `%40` for `@`.
    #[arg(long)]
    pub url: Option<Concealed>,
    /// Have flyloft run it: PostgreSQL, MariaDB or Redis.
    #[arg(long)]
    pub managed: bool,
    /// What it is made of; the newest one if none is named.
    #[arg(long, requires = "managed", value_parser = parse_stack)]
    pub stack: Option<Stack>,
    /// How much memory it may take; an eighth of the machine's, and 1GiB at most, if nothing is said.
    #[arg(long, requires = "managed", value_name = "SIZE")]
    pub memory: Option<Size>,
    /// How much its data may take; 10GiB if nothing is said. Beyond that it is stopped.
    #[arg(long, requires = "managed", value_name = "SIZE")]
    pub disk: Option<Size>,
    /// A file with the certificate of who signed the server's. Connections are encrypted then, and apps find it at
    /// /flyloft/ca/NAME.pem. `-` is standard input, after the URL if that is there as well. Without it `sslmode=require`
    /// trusts those that the machine trusts.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesChange {
    /// What it is called.
    pub name: String,
    /// As in `services add`; `-` takes it from the first line of standard input.
    #[arg(long)]
    pub url: Concealed,
    /// A file with the certificate of who signed the server's, as in `services add`. Without it the one that was named
    /// counts.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesLs {
    /// Show passwords.
    #[arg(long)]
    pub reveal: bool,
}

impl ServicesAdd {
    pub fn reads_url(&self) -> bool {
        self.url.as_ref().is_some_and(|url| url.0 == "-")
    }
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesUpgrade {
    /// The server.
    pub name: String,
    /// What it is to be made of; as it is if none is named. PostgreSQL stays at its major version.
    #[arg(long, value_parser = parse_stack)]
    pub stack: Option<Stack>,
    /// How much memory it may take.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// How much its data may take.
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Size>,
}

#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
pub struct ServicesRm {
    /// The server.
    pub name: String,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
}

fn parse_stack(text: &str) -> Result<Stack, String> {
    let all = Stack::ALL.map(|stack| stack.name()).join(", ");
    Stack::parse(text).ok_or_else(|| format!("there is no such stack; there are {all}"))
}
