//! All that cannot be made anew, in one file: `flyloft backup` has the daemon write it, `flyloft restore` reads it.
//!
//! ```text
//! FLYLOFT BACKUP 1      and the end of a line: the version of what follows
//! {"flyloft": …}        and the end of a line: a Manifest, with the configuration
//! …                     a tar archive: store.db, ssh_host_key, secrets.key, repos/
//! 32 bytes              SHA-256 of all before
//! ```
//!
//! It holds secrets. Layers, containers, caches and logs are not in it. What must hold: a file that is cut off, damaged
//! or not understood restores nothing, and one that was made to do harm does none but by what its apps do.

mod make;
pub mod restore;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flyloft_core::harmless::{self, Colours};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

pub use make::{STAGING, write};

const MAGIC: &str = "FLYLOFT BACKUP ";
const FORMAT: u32 = 1;
/// Of the repositories, in the archive and in the state directory.
const REPOSITORIES: &str = "repos";
const SEAL: usize = 32;
/// A manifest, which has a configuration in it, is no longer than this.
const MANIFEST_MAX: u64 = 4 << 20;

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the program that wrote it.
    pub flyloft: String,
    /// The version of the store in it.
    pub store: u32,
    /// When, as RFC 3339 has it.
    pub made_at: String,
    /// The same by the clock by which environments age, which goes on from there.
    #[serde(default)]
    pub clock: Option<u64>,
    pub apps: usize,
    pub environments: usize,
    /// The text of the configuration, if there was a file.
    pub configuration: Option<String>,
    /// Of that file.
    #[serde(default)]
    pub configuration_mode: Option<u32>,
    /// Servers that the daemon runs itself, whose data are not in it.
    #[serde(default)]
    pub servers: Vec<String>,
}

impl Manifest {
    /// What is told of it does nothing to a terminal.
    fn parse(text: &str) -> Option<Self> {
        let told = |text: &str| harmless::line(text, Colours::Dropped).replace('\n', " ");
        let manifest: Self = serde_json::from_str(text).ok()?;
        let servers = manifest.servers.iter().map(|name| told(name)).collect();
        Some(Self { flyloft: told(&manifest.flyloft), made_at: told(&manifest.made_at), servers, ..manifest })
    }

    /// Whether it has the key of what is secret in the store. Stores before version 5 had nothing that takes one.
    fn has_key(&self) -> bool {
        self.store >= 5
    }

    /// How much it is, in words: `3 apps, 12 environments`.
    pub fn amount(&self) -> String {
        let of = |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        format!("{}, {}", of(self.apps, "app"), of(self.environments, "environment"))
    }
}

#[derive(Debug, Error)]
pub enum BackupError {
    #[error("`{0}` is not a backup of flyloft")]
    NoBackup(String),
    #[error("`{file}` is a backup of format {found}, and this program knows format {FORMAT}")]
    NewerFormat { file: String, found: String },
    #[error("`{0}` is damaged or was cut off: its checksum is not right")]
    Damaged(String),
    #[error("`{0}` is not a file, and a backup is looked at as a whole before anything of it is used")]
    NoFile(String),
    #[error("failed to read `{file}`")]
    Read { file: String, source: io::Error },
}

impl BackupError {
    fn hint(&self) -> &'static str {
        match self {
            Self::NoBackup(_) => "give a file that `flyloft backup` wrote",
            Self::NoFile(_) => "write it to a file that only you can read, and name that: (umask 077; cat > FILE)",
            Self::NewerFormat { .. } => "restore it with the version of flyloft that wrote it, or a newer one",
            Self::Damaged(_) | Self::Read { .. } => "take another backup; nothing was restored",
        }
    }
}

impl From<BackupError> for crate::error::Error {
    fn from(error: BackupError) -> Self {
        let hint = error.hint();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let mut told = Self::failed(&error).hint(hint);
        told.causes.extend(cause);
        told
    }
}

/// A backup that is whole.
#[derive(Debug)]
pub struct Backup {
    pub manifest: Manifest,
    pub bytes: u64,
    /// At the beginning of the archive, which is so long.
    archive: io::Take<File>,
}

impl Backup {
    /// Reads all of it once, to see whether it is whole.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let name = path.display().to_string();
        let failed = |source| BackupError::Read { file: name.clone(), source };
        // Of a pipe nobody would read the beginning twice, and whoever opens one may wait for ever.
        if path.as_os_str() == "-" || !path.metadata().map_err(failed)?.is_file() {
            return Err(BackupError::NoFile(name));
        }
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let (manifest, begin) = head(&file, &name)?;
        let end = bytes.checked_sub(SEAL as u64).filter(|end| *end >= begin);
        let end = end.ok_or_else(|| BackupError::Damaged(name.clone()))?;
        let manifest = match is_sealed(&mut file, end).map_err(failed)? {
            // Only what is known to be whole is understood.
            true => Manifest::parse(&manifest).ok_or_else(|| BackupError::NoBackup(name.clone()))?,
            false => return Err(BackupError::Damaged(name)),
        };
        file.seek(SeekFrom::Start(begin)).map_err(failed)?;
        Ok(Self { manifest, bytes, archive: file.take(end - begin) })
    }
}

/// The text of the manifest, and where the archive begins.
fn head(file: &File, name: &str) -> Result<(String, u64), BackupError> {
    let none = || BackupError::NoBackup(name.to_owned());
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::InvalidData => none(),
        _ => BackupError::Read { file: name.to_owned(), source },
    };
    let mut reader = BufReader::new(file.take(MANIFEST_MAX));
    let (mut magic, mut manifest) = (Vec::new(), String::new());
    (&mut reader).take(64).read_until(b'\n', &mut magic).map_err(failed)?;
    let magic = str::from_utf8(&magic).map_err(|_| none())?;
    let found = magic.strip_prefix(MAGIC).ok_or_else(none)?.trim_end();
    if found != FORMAT.to_string() {
        return Err(BackupError::NewerFormat { file: name.to_owned(), found: found.to_owned() });
    }
    reader.read_line(&mut manifest).map_err(failed)?;
    if !manifest.ends_with('\n') {
        return Err(BackupError::Damaged(name.to_owned()));
    }
    let begin = (magic.len() + manifest.len()) as u64;
    Ok((manifest, begin))
}

/// Whether what lies before `end` has the checksum that lies behind it.
fn is_sealed(file: &mut File, end: u64) -> io::Result<bool> {
    file.rewind()?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    let mut covered = (&mut *file).take(end);
    loop {
        match covered.read(&mut piece)? {
            0 => break,
            count => hash.update(&piece[..count]),
        }
    }
    let mut seal = [0; SEAL];
    file.read_exact(&mut seal)?;
    Ok(hash.finalize()[..] == seal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            flyloft: "0.1.0".to_owned(),
            store: 4,
            made_at: "2026-11-24T12:00:00Z".to_owned(),
            clock: Some(1_795_521_600_000),
            apps: 1,
            environments: 2,
            configuration: Some("domain = \"staging.example.org\"\n".to_owned()),
            configuration_mode: Some(0o640),
            servers: Vec::new(),
        }
    }

    fn sealed(format: u32, manifest: &str) -> Vec<u8> {
        let mut bytes = format!("{MAGIC}{format}\n{manifest}\nthe archive").into_bytes();
        bytes.extend(Sha256::digest(&bytes));
        bytes
    }

    fn opened(bytes: &[u8]) -> Result<Backup, BackupError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Backup::open(file.path())
    }

    #[test]
    fn a_whole_backup_gives_its_manifest_and_its_archive() {
        let mut backup = opened(&sealed(FORMAT, &serde_json::to_string(&manifest()).unwrap())).unwrap();
        assert_eq!(backup.manifest, manifest());
        let mut archive = String::new();
        backup.archive.read_to_string(&mut archive).unwrap();
        assert_eq!(archive, "the archive");
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_refused() {
        let whole = sealed(FORMAT, &serde_json::to_string(&manifest()).unwrap());
        let after_head = MAGIC.len() + 2;
        for length in after_head..whole.len() {
            let cut = opened(&whole[..length]);
            assert!(matches!(cut, Err(BackupError::Damaged(_))), "{length} bytes: {cut:?}");
        }
        for at in after_head..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(opened(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_backup_of_before_the_clock_and_the_mode_were_in_it_is_understood() {
        let old = r#"{"flyloft":"0.1.0","store":4,"made_at":"2026-11-24T12:00:00Z","apps":1,"environments":2,
            "configuration":null}"#;
        let backup = opened(&sealed(FORMAT, &old.replace('\n', ""))).unwrap();
        let expected = Manifest { clock: None, configuration: None, configuration_mode: None, ..manifest() };
        assert_eq!(backup.manifest, expected);
    }

    #[test]
    fn what_a_backup_says_of_itself_does_nothing_to_a_terminal() {
        let sly = Manifest { flyloft: "1\u{1b}[2J\n0".to_owned(), made_at: "now\u{9b}3J".to_owned(), ..manifest() };
        let Manifest { flyloft, made_at, .. } =
            opened(&sealed(FORMAT, &serde_json::to_string(&sly).unwrap())).unwrap().manifest;
        assert!(!format!("{flyloft}{made_at}").contains(char::is_control), "{flyloft:?} {made_at:?}");
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        for other in ["-", "/dev/null", "/"] {
            assert!(matches!(Backup::open(Path::new(other)), Err(BackupError::NoFile(_))), "{other}");
        }
    }

    #[test]
    fn what_is_no_backup_or_a_newer_one_is_told_so() {
        for other in ["", "hello\n", "\u{fffd}\u{0}", "FLYLOFT"] {
            assert!(matches!(opened(other.as_bytes()), Err(BackupError::NoBackup(_))), "{other:?}");
        }
        assert!(matches!(opened(&sealed(FORMAT, "{}")), Err(BackupError::NoBackup(_))));
        let newer = opened(&sealed(9, "{}")).unwrap_err();
        assert!(newer.to_string().ends_with("is a backup of format 9, and this program knows format 1"), "{newer}");
    }
}
