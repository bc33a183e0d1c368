//! Small files beside a container: what is true of it until somebody notes something else.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// None where there is none. One that a power cut or a full disk has cut short tells nothing.
pub fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub fn write(file: &Path, what: &impl Serialize) -> io::Result<()> {
    let aside = file.with_extension("json.new");
    fs::write(&aside, serde_json::to_vec(what)?)?;
    fs::rename(aside, file)
}

pub fn remove(file: &Path) -> io::Result<()> {
    unless_missing(fs::remove_file(file))
}

/// The first becomes the second, if it is there.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    unless_missing(fs::rename(from, to))
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_one_that_was_cut_short_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("note.json");
        assert_eq!(read::<Vec<u8>>(&file).unwrap(), None);
        write(&file, &[1, 2]).unwrap();
        assert_eq!(read::<Vec<u8>>(&file).unwrap(), Some(vec![1, 2]));
        fs::write(&file, "[1,").unwrap();
        assert_eq!(read::<Vec<u8>>(&file).unwrap(), None);
        for _ in 0..2 {
            remove(&file).unwrap();
            rename(&file, &dir.path().join("other.json")).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
