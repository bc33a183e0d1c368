//! What an administrator has nginx do for the environments of one app: a file of theirs for each such app, with lines for
//! its `location /`.
//!
//! ```text
//!   APP.conf, theirs ── trial ──► snippets/APP.conf, which nginx includes
//!                         └─────► refused/APP, why not; what was taken before stays
//! ```
//!
//! What must hold: nothing comes to stand in what nginx reads before nginx has said that it would take it, beside the
//! whole of its configuration as it is; and nothing goes that what it reads still includes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flyloft_core::name::AppName;
use flyloft_core::nginx::{Apart, Told};
use tokio::sync::watch;

use super::files;
use super::keeper::Place;
use super::master::Trouble;
use super::trial;

/// Bytes of a snippet.
const MOST: u64 = 64 << 10;

/// What was refused for a reason of the moment, a name that nobody resolved, is judged again after this time.
const AGAIN: Duration = Duration::from_secs(120);

/// What takes the place of a snippet that has become wrong: it may have been what keeps people out.
const CLOSED: &str = "return 503;\n";

/// Where snippets are tried, for a moment, in the directory of the place.
const ASIDE: &str = "trial-";

/// Why snippets are not used, by app.
pub type Refusals = BTreeMap<AppName, String>;

type Texts = BTreeMap<AppName, String>;

/// What is found in the administrator's directory.
type Found = BTreeMap<AppName, Result<String, String>>;

pub struct Snippets {
    /// The administrator's directory.
    from: PathBuf,
    /// What was judged last, and when.
    judged: Option<(Found, Instant)>,
    taken: Texts,
    refused: watch::Sender<Refusals>,
}

impl Snippets {
    /// Those that a daemon before this one has taken are taken for good until they are judged.
    pub fn new(from: PathBuf, dir: &Path) -> Self {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            // A daemon that was killed in the middle.
            if entry.file_name().to_string_lossy().starts_with(ASIDE) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let taken = files::texts(&dir.join(files::SNIPPETS), ".conf");
        Self { from, judged: None, taken, refused: watch::Sender::new(Refusals::new()) }
    }

    pub fn refusals(&self) -> watch::Receiver<Refusals> {
        self.refused.subscribe()
    }

    /// Which apps have one that was taken, and something that differs for each text.
    pub fn taken(&self) -> BTreeMap<AppName, u64> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mark = |text: &String| {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish()
        };
        self.taken.iter().map(|(app, text)| (app.clone(), mark(text))).collect()
    }

    /// Looks whether the administrator has changed something, and has nginx judge it. Says whether other snippets are
    /// taken than before. While nginx refuses its configuration without any of ours, nothing is judged.
    pub async fn look(&mut self, place: &Place, told: &Told) -> Result<bool, Trouble> {
        let unreadable = |error: io::Error| Trouble::Unreadable(self.from.clone(), error.to_string());
        let found = read_all(&self.from).map_err(unreadable)?;
        if let Some((judged, at)) = &self.judged
            && *judged == found
            && (self.refused.borrow().is_empty() || at.elapsed() < AGAIN)
        {
            return Ok(false);
        }
        let mut taken = self.taken.clone();
        taken.retain(|app, _| found.contains_key(app));
        let (mut wanted, mut refused) = (taken.clone(), Refusals::new());
        for (app, text) in &found {
            match text {
                Ok(text) => drop(wanted.insert(app.clone(), text.clone())),
                Err(why) => drop(refused.insert(app.clone(), why.clone())),
            }
        }
        if would_take(place, told, &wanted).await.is_ok() {
            taken = wanted;
        } else if let Err(trouble) = would_take(place, told, &taken).await {
            // Others are to blame, or one that was right once.
            return if self.suspect(place, told).await? { Ok(true) } else { Err(trouble) };
        } else {
            for (app, text) in wanted {
                let before = taken.insert(app.clone(), text);
                let Err(trouble) = would_take(place, told, &taken).await else { continue };
                refused.insert(app.clone(), trouble.why());
                match before {
                    Some(before) => taken.insert(app, before),
                    None => taken.remove(&app),
                };
            }
        }
        let changed = self.install(place, taken, refused)?;
        self.judged = Some((found, Instant::now()));
        Ok(changed)
    }

    /// nginx refuses its configuration. Those are taken out that it refuses beside the rest, which may have become wrong
    /// without a change: a name that nobody resolves any more. Says whether there were any.
    pub async fn suspect(&mut self, place: &Place, told: &Told) -> Result<bool, Trouble> {
        let (mut taken, mut refused) = (Texts::new(), self.refused.borrow().clone());
        if self.taken.is_empty() || would_take(place, told, &taken).await.is_err() {
            return Ok(false);
        }
        for (app, text) in &self.taken {
            taken.insert(app.clone(), text.clone());
            if let Err(trouble) = would_take(place, told, &taken).await {
                refused.insert(app.clone(), format!("{}; it answers 503 until that is mended", trouble.why()));
                taken.insert(app.clone(), CLOSED.to_owned());
            }
        }
        self.install(place, taken, refused)
    }

    /// Whether nginx would take those that are taken beside what else it is to be told.
    pub async fn would_go_on(&self, place: &Place, told: &Told) -> Result<(), Trouble> {
        would_take(place, told, &self.taken).await
    }

    /// Once nginx reads nothing else any more.
    pub fn tidy(&self, place: &Place) -> io::Result<()> {
        files::keep_only(&place.dir.join(files::SNIPPETS), ".conf", &self.taken)
    }

    fn install(&mut self, place: &Place, taken: Texts, refused: Refusals) -> Result<bool, Trouble> {
        let dir = &place.dir;
        let failed = |error: io::Error| Trouble::Unwritable(dir.clone(), error.to_string());
        let reasons = dir.join(files::REFUSED);
        files::put(&reasons, "", &refused).and_then(|()| files::keep_only(&reasons, "", &refused)).map_err(failed)?;
        files::put(&dir.join(files::SNIPPETS), ".conf", &taken).map_err(failed)?;
        let changed = self.taken != taken;
        self.taken = taken;
        self.refused.send_if_modified(|before| {
            let differs = *before != refused;
            *before = refused;
            differs
        });
        Ok(changed)
    }
}

/// Whether nginx would begin with this, beside all the rest of its site's configuration.
pub async fn would_begin(place: &Place) -> Result<(), Trouble> {
    would_take(place, &Told::default(), &Texts::new()).await
}

/// Whether nginx would take these snippets beside all the rest.
async fn would_take(place: &Place, told: &Told, snippets: &Texts) -> Result<(), Trouble> {
    let failed = |error: io::Error| Trouble::Unwritable(place.dir.clone(), error.to_string());
    let aside = tempfile::Builder::new().prefix(ASIDE).tempdir_in(&place.dir).map_err(failed)?;
    let apart = |app: &AppName| (app.clone(), told.apart.get(app).cloned().unwrap_or_default());
    let apart: BTreeMap<AppName, Apart> = snippets.keys().map(apart).collect();
    let told = Told { straight: told.straight.clone(), apart, tls: told.tls.clone() };
    files::write_site(aside.path(), place.site(&place.shown()), &told).map_err(failed)?;
    files::put(&aside.path().join(files::SNIPPETS), ".conf", snippets).map_err(failed)?;
    trial::of(&place.master, aside.path(), &place.dir).await
}

fn read_all(dir: &Path) -> io::Result<Found> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::new()),
        entries => entries?,
    };
    let mut found = Found::new();
    for entry in entries {
        let name = entry?.file_name();
        let Some(app) = name.to_str().and_then(|name| name.strip_suffix(".conf")) else { continue };
        if let Ok(app) = AppName::parse(app) {
            found.insert(app, read(&dir.join(&name)));
        }
    }
    Ok(found)
}

/// What nginx is to do as root is said by root.
fn read(file: &Path) -> Result<String, String> {
    let said = |error: io::Error| error.to_string();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let open = fs::OpenOptions::new().read(true).custom_flags(flags).open(file).map_err(said)?;
    let known = open.metadata().map_err(said)?;
    if !known.is_file() {
        return Err("it is not a file".to_owned());
    }
    if known.uid() != nix::unistd::geteuid().as_raw() || known.mode() & 0o022 != 0 {
        return Err(format!("others than root may write it (mode {:o}, owner {})", known.mode() & 0o777, known.uid()));
    }
    let mut text = String::new();
    open.take(MOST + 1).read_to_string(&mut text).map_err(said)?;
    match text.len() as u64 > MOST {
        true => Err(format!("it has more than {} KiB", MOST >> 10)),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_what_root_says_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("shop.conf"), "client_max_body_size 10m;\n").unwrap();
        fs::write(path("blog.conf"), "deny all;\n").unwrap();
        fs::set_permissions(path("blog.conf"), fs::Permissions::from_mode(0o666)).unwrap();
        symlink("/etc/passwd", path("link.conf")).unwrap();
        fs::write(path("large.conf"), "#".repeat(MOST as usize + 1)).unwrap();
        fs::write(path("README"), "").unwrap();
        fs::write(path("No App.conf"), "").unwrap();
        let found = read_all(dir.path()).unwrap();
        let found: Vec<(&str, Result<&str, &str>)> =
            found.iter().map(|(app, text)| (app.as_str(), text.as_deref().map_err(String::as_str))).collect();
        let link = format!("{}", io::Error::from_raw_os_error(libc::ELOOP));
        assert_eq!(
            found,
            [
                ("blog", Err("others than root may write it (mode 666, owner 0)")),
                ("large", Err("it has more than 64 KiB")),
                ("link", Err(link.as_str())),
                ("shop", Ok("client_max_body_size 10m;\n")),
            ]
        );
        assert_eq!(read_all(&path("nothing")).unwrap(), Found::new());
    }
}
