//! Where the host gets its Debian packages from, so that layers come from the same mirror.

use std::fs;
use std::io;
use std::path::Path;

/// The mirrors that apt on this host uses: pairs of base URL and suite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    entries: Vec<(String, String)>,
}

/// Base URLs of Debian's archive and of its security updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    pub archive: String,
    pub security: Option<String>,
}

/// Suites of the archive proper. Others in a host's list belong to vendors.
const SUITES: &[&str] = &[
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
];

impl Sources {
    pub fn of_host() -> io::Result<Self> {
        let mut sources = Self::default();
        let read = |path: &Path| match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            text => text,
        };
        sources.add_lines(&read(Path::new("/etc/apt/sources.list"))?);
        let mut parts: Vec<_> = match fs::read_dir("/etc/apt/sources.list.d") {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        parts.sort();
        for part in parts {
            match part.extension().and_then(|extension| extension.to_str()) {
                Some("list") => sources.add_lines(&read(&part)?),
                Some("sources") => sources.add_stanzas(&read(&part)?),
                _ => {}
            }
        }
        Ok(sources)
    }

    /// The one-line style of sources.list(5): `deb [options] URI suite component…`.
    fn add_lines(&mut self, text: &str) {
        for line in text.lines() {
            let Some(rest) = line.trim().strip_prefix("deb ") else { continue };
            let rest = rest.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                None => rest,
            };
            let mut words = rest.split_whitespace();
            if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                self.entries.push((uri.to_owned(), suite.to_owned()));
            }
        }
    }

    /// The style of deb822: stanzas with `Types`, `URIs` and `Suites`.
    fn add_stanzas(&mut self, text: &str) {
        for stanza in text.split("\n\n") {
            let field = |name: &str| {
                let is_named = |line: &&str| line.split(':').next().is_some_and(|key| key.eq_ignore_ascii_case(name));
                let line = stanza.lines().find(is_named)?;
                Some(line.split_once(':')?.1.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            };
            let is = |name: &str, value: &str| field(name).is_some_and(|words| words.iter().any(|word| word == value));
            if !is("Types", "deb") || is("Enabled", "no") {
                continue;
            }
            for uri in field("URIs").unwrap_or_default() {
                for suite in field("Suites").unwrap_or_default() {
                    self.entries.push((uri.clone(), suite));
                }
            }
        }
    }

    /// Debian's mirrors among them, if there is one.
    pub fn mirror(&self) -> Option<Mirror> {
        let find = |wanted: &dyn Fn(&str) -> bool| {
            self.entries.iter().find(|(_, suite)| wanted(suite)).map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        };
        let is_security = |suite: &str| {
            let base = suite.strip_suffix("-security").or(suite.strip_suffix("/updates"));
            base.is_some_and(|base| SUITES.contains(&base))
        };
        Some(Mirror { archive: find(&|suite| SUITES.contains(&suite))?, security: find(&is_security) })
    }
}

impl Mirror {
    /// Lines of a sources.list(5) for a released suite.
    pub fn lines(&self, suite: &str) -> Vec<String> {
        let mut lines =
            vec![format!("deb {} {suite} main", self.archive), format!("deb {} {suite}-updates main", self.archive)];
        lines.extend(self.security.iter().map(|security| format!("deb {security} {suite}-security main")));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_hosts_whichever_way_it_is_written_and_vendors_are_passed_over() {
        let mut lines = Sources::default();
        lines.add_lines(
            "# deb http://old.example/debian buster main\n\
             deb [signed-by=/k.gpg arch=amd64] https://vendor.example/node nodistro main\n\
             deb http://mirror.example/debian/ bookworm main contrib\n\
             deb http://mirror.example/security bookworm-security main\n",
        );
        let expected = Mirror {
            archive: "http://mirror.example/debian".to_owned(),
            security: Some("http://mirror.example/security".to_owned()),
        };
        assert_eq!(lines.mirror().as_ref(), Some(&expected));

        let mut stanzas = Sources::default();
        stanzas.add_stanzas(
            "Types: deb\nURIs: https://vendor.example/cloud\nSuites: cloud-bookworm\n\n\
             Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\n\n\
             Enabled: no\nTypes: deb\nURIs: http://wrong.example\nSuites: trixie-security\n\n\
             Types: deb\nURIs: http://mirror.example/security\nSuites: trixie-security\n",
        );
        assert_eq!(stanzas.mirror(), Some(expected));
    }

    #[test]
    fn vendors_alone_are_no_mirror_of_debian() {
        let mut sources = Sources::default();
        sources.add_lines("deb https://vendor.example/node nodistro main\n");
        assert_eq!(sources.mirror(), None);
    }
}
