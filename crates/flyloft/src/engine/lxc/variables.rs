//! A command's variables on their way into its container: a file in memory that has no name, open for `init exec` alone.
//!
//! Values may be secrets. As arguments of `lxc-attach` any user of the host could read them, and in its environment an
//! `LD_PRELOAD` would work on the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// `NAME=value` and a NUL for each, as `flyloft-init` reads them: a value can hold every other byte.
pub fn file(variables: &BTreeMap<String, String>) -> io::Result<OwnedFd> {
    let mut text = Vec::new();
    for (name, value) in variables {
        check(name, value)?;
        text.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    let mut file = File::from(memfd_create(c"variables", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&text)?;
    file.rewind()?;
    Ok(file.into())
}

/// What no process can have as a variable (execve(2)).
fn check(name: &str, value: &str) -> io::Result<()> {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` cannot be a variable")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn written(name: &str, value: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::from(file(&[(name.to_owned(), value.to_owned())].into())?).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_value_holds_newlines_and_equals_signs_as_they_are() {
        assert_eq!(written("A", "x=1\ny=2\n").unwrap(), b"A=x=1\ny=2\n\0");
    }

    #[test]
    fn what_would_end_a_variable_early_or_name_another_is_refused() {
        for (name, value) in [("A", "x\0B=y"), ("A\0B", "x"), ("A=B", "x"), ("", "x")] {
            assert!(written(name, value).is_err(), "{name:?} {value:?}");
        }
    }
}
