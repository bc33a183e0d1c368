//! Files with the content that they should have.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes the file unless it says the same already; whoever reads it meanwhile sees the old or the new. True if it was
/// written.
pub fn ensure(path: &Path, text: &str, mode: u32) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(true)
}

/// Adds a line to a file of lines, which may be missing.
pub fn append_line(path: &Path, line: &str) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o7777).unwrap_or(0o644);
    ensure(path, &format!("{text}{gap}{line}\n"), mode).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/a.conf");
        assert!(ensure(&path, "a\n", 0o640).unwrap());
        assert!(!ensure(&path, "a\n", 0o640).unwrap());
        assert!(ensure(&path, "b\n", 0o640).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_line_is_added_to_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subuid");
        append_line(&path, "a:1:2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a:1:2\n");
        fs::write(&path, "b:1:2").unwrap();
        append_line(&path, "a:1:2").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b:1:2\na:1:2\n");
    }
}
