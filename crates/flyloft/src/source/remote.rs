//! Addresses of repositories, parsed once. What is not one of the few forms below is refused before git sees it.

use std::fmt;
use std::net::Ipv6Addr;

use thiserror::Error;

/// `https://HOST[:PORT]/PATH`, `ssh://[USER@]HOST[:PORT]/PATH` or `[USER@]HOST:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RemoteUrl {
    pub(super) scheme: Scheme,
    /// Of SSH only. A password or token is never part of a URL here.
    pub(super) user: Option<String>,
    /// Lower case; an IPv6 address without its brackets.
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// As the server is asked for it: with a leading `/`, but for the form `HOST:PATH`.
    pub(super) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Https,
    Ssh,
    /// On loopback only, and only where a test has allowed it.
    Http,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    #[error("`{0}` is not an address of a repository: https://…, ssh://… and git@HOST:PATH are")]
    Form(String),
    #[error("`{url}` has a {what} that is not allowed")]
    Part { url: String, what: &'static str },
    #[error("the URL for `{0}` has a user name or a password in it")]
    Secret(String),
    #[error("`{0}` is relative to the URL of its repository, and this repository has none: it was pushed")]
    NoBase(String),
    #[error("`{relative}` leads out of `{base}`")]
    Outside { relative: String, base: String },
}

impl RemoteUrl {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        Self::parse_also_http(text, false)
    }

    pub(super) fn parse_also_http(text: &str, http: bool) -> Result<Self, UrlError> {
        if let Some(rest) = text.strip_prefix("https://") {
            return Self::from_authority(Scheme::Https, rest, text);
        }
        if let Some(rest) = text.strip_prefix("ssh://") {
            return Self::from_authority(Scheme::Ssh, rest, text);
        }
        if let Some(rest) = text.strip_prefix("http://")
            && http
        {
            let url = Self::from_authority(Scheme::Http, rest, text)?;
            return if url.host == "127.0.0.1" { Ok(url) } else { Err(UrlError::Form(text.to_owned())) };
        }
        // `HOST:PATH`, but not `ext::command`, `fd::3` or a local path with a colon in it.
        match text.split_once(':') {
            Some((front, path)) if !text.contains("://") && !front.contains('/') && !path.starts_with(':') => {
                let (user, host) = front.rsplit_once('@').map_or((None, front), |(user, host)| (Some(user), host));
                Self::checked(Scheme::Ssh, user, host, None, path, text)
            }
            _ => Err(UrlError::Form(text.to_owned())),
        }
    }

    fn from_authority(scheme: Scheme, rest: &str, text: &str) -> Result<Self, UrlError> {
        let slash = rest.find('/').ok_or_else(|| UrlError::Part { url: text.to_owned(), what: "path" })?;
        let (authority, path) = rest.split_at(slash);
        let (user, address) = match authority.rsplit_once('@') {
            Some((_, host)) if scheme != Scheme::Ssh => return Err(UrlError::Secret(host.to_owned())),
            Some((user, address)) => (Some(user), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (address, None),
        };
        let part = |what| UrlError::Part { url: text.to_owned(), what };
        let port = port.map(|port| port.parse().map_err(|_| part("port"))).transpose()?;
        Self::checked(scheme, user, host, port, path, text)
    }

    fn checked(
        scheme: Scheme,
        user: Option<&str>,
        host: &str,
        port: Option<u16>,
        path: &str,
        text: &str,
    ) -> Result<Self, UrlError> {
        let part = |what| Err(UrlError::Part { url: text.to_owned(), what });
        let letters = |text: &str, more: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let sound_host = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && letters(host, b".-_") && !host.starts_with(['-', '.']),
        };
        if !sound_host {
            return part("host");
        }
        if user.is_some_and(|user| user.is_empty() || !letters(user, b".-_") || user.starts_with('-')) {
            return part("user name");
        }
        let sound_path = letters(path, b"._~/+@%=,:-")
            && !path.trim_matches('/').is_empty()
            && !path.starts_with('-')
            && !path.split('/').any(|segment| segment == "..");
        if !sound_path {
            return part("path");
        }
        Ok(Self {
            scheme,
            user: user.map(str::to_owned),
            host: bracketed.unwrap_or(host).to_ascii_lowercase(),
            port,
            path: path.to_owned(),
        })
    }

    /// What a `.gitmodules` file means by `text` in a repository that came from `base`. See gitmodules(5): a URL that
    /// starts with `./` or `../` is relative to that of its repository.
    pub(super) fn resolve(base: Option<&Self>, text: &str, http: bool) -> Result<Self, UrlError> {
        if !text.starts_with("./") && !text.starts_with("../") {
            return Self::parse_also_http(text, http);
        }
        let base = base.ok_or_else(|| UrlError::NoBase(text.to_owned()))?;
        let outside = || UrlError::Outside { relative: text.to_owned(), base: base.to_string() };
        let absolute = base.path.starts_with('/');
        let mut path: Vec<&str> = base.path.trim_matches('/').split('/').collect();
        let mut rest = text;
        loop {
            if let Some(further) = rest.strip_prefix("./") {
                rest = further;
            } else if let Some(further) = rest.strip_prefix("../") {
                path.pop().ok_or_else(outside)?;
                rest = further;
            } else {
                break;
            }
        }
        path.push(rest);
        let path = format!("{}{}", if absolute { "/" } else { "" }, path.join("/"));
        let host = if base.host.contains(':') { format!("[{}]", base.host) } else { base.host.clone() };
        Self::checked(base.scheme, base.user.as_deref(), &host, base.port, &path, text)
    }

    /// `git.example.com` or `git.example.com:8443`: what a credential is bound to.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let authority = self.authority();
        match self.scheme {
            Scheme::Https => write!(f, "https://{authority}{}", self.path),
            Scheme::Http => write!(f, "http://{authority}{}", self.path),
            Scheme::Ssh if self.path.starts_with('/') => write!(f, "ssh://{user}{authority}{}", self.path),
            Scheme::Ssh => write!(f, "{user}{authority}:{}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RemoteUrl {
        RemoteUrl::parse(text).unwrap()
    }

    #[test]
    fn the_usual_forms_are_read_and_written_as_they_are() {
        for text in [
            "https://github.com/acme/shop.git",
            "https://git.example.com:8443/acme/shop",
            "ssh://git@git.example.com:2222/acme/shop.git",
            "ssh://git@[fd00::1]:2222/shop",
            "git@github.com:acme/shop.git",
            "git.example.com:shop",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("https://GitHub.com/acme/shop").authority(), "github.com");
        assert_eq!(parse("https://git.example.com:8443/x").authority(), "git.example.com:8443");
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "shop",
            "/srv/git/shop.git",
            "./shop",
            "file:///srv/git/shop.git",
            "http://example.com/shop",
            "http://127.0.0.1/shop",
            "git://example.com/shop",
            "ext::sh -c id",
            "fd::3",
            "ftp://example.com/shop",
            "HTTPS://example.com/shop",
            "https://example.com",
            "https://example.com/",
            "https:///shop",
            "https://example.com:99999/shop",
            "https://-oProxyCommand=id/shop",
            "https://exa mple.com/shop",
            "https://example.com/a/../../b",
            "https://example.com/shop?x=$(id)",
            "https://example.com/shop\nHost: other",
            "ssh://-oProxyCommand=id/shop",
            "ssh://git@host/sh'op",
            "-oProxyCommand=id:shop",
            "git@host:-upload-pack",
            "a b@host:shop",
            "C:\\shop",
        ] {
            assert!(RemoteUrl::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_token_in_a_url_is_refused_and_not_repeated() {
        let error = RemoteUrl::parse("https://ada:s3cret@github.com/acme/shop").unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }

    #[test]
    fn relative_urls_of_submodules_start_from_the_repository() {
        let resolve =
            |base: &str, text: &str| RemoteUrl::resolve(Some(&parse(base)), text, false).map(|u| u.to_string());
        let https = "https://github.com/acme/shop.git";
        assert_eq!(resolve(https, "../theme.git").unwrap(), "https://github.com/acme/theme.git");
        assert_eq!(resolve(https, "../../other/theme").unwrap(), "https://github.com/other/theme");
        assert_eq!(resolve(https, "./theme").unwrap(), "https://github.com/acme/shop.git/theme");
        assert_eq!(resolve("git@github.com:acme/shop.git", "../theme").unwrap(), "git@github.com:acme/theme");
        assert_eq!(resolve("ssh://[fd00::1]:22/a/b", "../c").unwrap(), "ssh://[fd00::1]:22/a/c");
        assert_eq!(resolve(https, "https://example.com/x").unwrap(), "https://example.com/x");
        assert!(resolve(https, "../../../x").is_err());
        assert!(resolve(https, "../x/../../y").is_err());
        assert!(matches!(RemoteUrl::resolve(None, "../theme", false), Err(UrlError::NoBase(_))));
    }
}
