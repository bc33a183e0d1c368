//! Which submodules a repository asks for, and from where.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// From the path of each submodule to its URL as the file has it, out of `git config --blob … -z --list`:
/// `KEY LF VALUE NUL` each. What else the file says (`update`, `branch`, …) has no effect here.
pub(super) fn urls(listing: &[u8]) -> HashMap<PathBuf, String> {
    let mut sections: HashMap<&[u8], (Option<PathBuf>, Option<String>)> = HashMap::new();
    for setting in listing.split(|b| *b == 0) {
        let Some(line) = setting.iter().position(|b| *b == b'\n') else { continue };
        let (key, value) = (&setting[..line], &setting[line + 1..]);
        let Some(name) = key.strip_prefix(b"submodule.") else { continue };
        if let Some(name) = name.strip_suffix(b".path") {
            sections.entry(name).or_default().0 = Some(PathBuf::from(OsStr::from_bytes(value)));
        } else if let Some(name) = name.strip_suffix(b".url") {
            sections.entry(name).or_default().1 = String::from_utf8(value.to_vec()).ok();
        }
    }
    sections.into_values().filter_map(|(path, url)| Some((path?, url?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_the_url_of_its_section() {
        let listing = b"submodule.theme.path\nlib/theme\0submodule.theme.url\n../theme.git\0\
            submodule.a.b.url\nhttps://example.com/b\0submodule.a.b.path\nb\0submodule.theme.update\n!id\0core.x\ny\0";
        let urls = urls(listing);
        assert_eq!(urls.len(), 2);
        assert_eq!(urls[&PathBuf::from("lib/theme")], "../theme.git");
        assert_eq!(urls[&PathBuf::from("b")], "https://example.com/b");
    }
}
