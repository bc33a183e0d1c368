//! What takes HTTP from the world, as the configuration says.

use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flyloft_core::gate::Prefix;
use flyloft_core::host::Domain;
use flyloft_core::nginx::{Bounds, Site};
use nix::unistd::{Uid, User};
use tokio::sync::watch;

use crate::config::{Config, EdgeKind};
use crate::edge::embedded::{EdgeConfig, Embedded, Limits, Proxies, Room, Secure, SecureConfig};
use crate::edge::nginx::{Barrier, Master, Nginx, NginxConfig, Place, Refusals, SecurePlace, Trouble, files};
use crate::edge::{Route, SharedEdge, Visits};
use crate::error::{Error, OrFailed, Result};
use crate::machine::ports::Holder;
use crate::sockets::{Sockets, Use};
use crate::sso::Sso;
use crate::store::{self, EventKind, Store};
use crate::tls::{Answers, Certificates};

/// What is wrong for a shorter time than this is told in the log alone: whoever restarts nginx knows.
const LASTS: Duration = Duration::from_secs(10);

/// How long nginx's processes may take to let go of a port, once they take nobody new.
const LETS_GO: Duration = Duration::from_millis(50);

pub struct Front {
    pub edge: SharedEdge,
    /// Where requests end up that wait: the edge itself, or what is behind it.
    pub embedded: Arc<Embedded>,
    /// Where clients come in.
    pub addresses: Vec<SocketAddr>,
    /// Where they come in that speak TLS.
    pub secure: Vec<SocketAddr>,
    pub told_of_nginx: Option<ToldOfNginx>,
    /// Where nginx comes in, and where it logs.
    nginx: Option<(UnixListener, UnixDatagram)>,
}

/// What people are to know of an nginx that is the edge.
pub struct ToldOfNginx {
    troubles: watch::Receiver<Option<Trouble>>,
    refusals: watch::Receiver<Refusals>,
}

/// What there is to serve.
pub struct Serves<'a> {
    pub instance: &'a str,
    pub domain: &'a Domain,
    pub routes: Vec<(String, Route)>,
    pub visits: Visits,
    pub certificates: Arc<Certificates>,
    pub sso: Option<Arc<Sso>>,
    pub answers: Arc<Answers>,
}

impl Front {
    /// Opens what the configuration says, with the sockets that were handed over. It is `answering` from early on.
    pub async fn open(
        config: &Config,
        serves: Serves<'_>,
        inherited: &mut Sockets,
        answering: &OnceLock<Arc<Embedded>>,
    ) -> Result<Self> {
        let failed = || "failed to start the edge";
        let Serves { instance, domain, routes, visits, certificates, sso, answers } = serves;
        let quiet_agents = config.edge.quiet_agents.clone();
        let to_open = |listen: Vec<SocketAddr>| EdgeConfig {
            routes: routes.clone(),
            visits: Some(visits.clone()),
            quiet_agents: quiet_agents.clone(),
            sso: sso.clone(),
            answers: answers.clone(),
            ..EdgeConfig::new(listen)
        };
        if config.edge.kind == EdgeKind::Embedded {
            withdraw(config, instance).await;
            let listen = config.https.listen.clone();
            let secure = SecureConfig { listen, inherited: inherited.take(Use::Https), certificates };
            let to_open = EdgeConfig {
                inherited: inherited.take(Use::Http),
                body_max: config.http.body_max,
                proxies: proxies(config)?,
                secure: (!secure.listen.is_empty()).then_some(secure),
                ..to_open(config.http_addresses())
            };
            let embedded = Embedded::open(to_open).or_failed(failed)?;
            let _ = answering.set(embedded.clone());
            let (addresses, secure) = (embedded.addresses().to_vec(), embedded.secure_addresses().to_vec());
            return Ok(Self { edge: embedded.clone(), embedded, addresses, secure, told_of_nginx: None, nginx: None });
        }
        let user = check_nginx(config)?;
        let dir = files::dir(&config.state_dir);
        let at = || format!("failed to prepare `{}` for nginx", dir.display());
        files::prepare(&dir, Site::nothing()).or_failed(at)?;
        let proxy = files::listen(&dir, user, inherited.take(Use::Nginx).pop()).or_failed(at)?;
        let log = files::hear(&dir, user, inherited.take(Use::NginxLog).pop()).or_failed(at)?;
        let kept = (proxy.try_clone().or_failed(at)?, log.try_clone().or_failed(at)?);
        let shown = Certificates::new().or_failed(|| "failed to prepare TLS")?;
        let port = config.https.listen.first().map(SocketAddr::port);
        if port.is_some() {
            certificates.are_shown_by(shown.clone());
        }
        let proxy_speaks = port.map(|port| Secure { certificates: shown.clone(), port });
        let to_open = EdgeConfig { proxy: Some(proxy), proxy_speaks, ..to_open(Vec::new()) };
        let embedded = Embedded::open(to_open).or_failed(failed)?;
        let _ = answering.set(embedded.clone());
        let speaks = port.map(|_| SecurePlace {
            listen: config.https.listen.clone(),
            dir: files::certificates(&config.state_dir),
            wanted: certificates,
            shown,
        });
        let place = place(config, instance, domain, speaks)?;
        let (snippets, routes) = (config.nginx.snippets.clone(), routes.clone());
        let quiet_agents = quiet_agents.clone();
        let leftover = port.is_none().then(|| files::certificates(&config.state_dir));
        let nginx = NginxConfig { place, workers: user, log, quiet_agents, snippets, leftover, routes, visits };
        let nginx = Nginx::open(embedded.clone(), nginx).or_failed(failed)?;
        let told_of_nginx = Some(ToldOfNginx { troubles: nginx.troubles(), refusals: nginx.refusals() });
        let (addresses, secure) = (config.http_addresses(), config.https.listen.clone());
        Ok(Self { edge: nginx, embedded, addresses, secure, told_of_nginx, nginx: Some(kept) })
    }

    /// Copies of the sockets by which clients, or nginx, come in.
    pub fn keep(&self, kept: &mut Sockets) -> std::io::Result<()> {
        kept.keep(Use::Http, self.embedded.listeners()?)?;
        kept.keep(Use::Https, self.embedded.secure_listeners()?)?;
        if let Some((proxy, log)) = &self.nginx {
            kept.keep(Use::Nginx, [proxy])?;
            kept.keep(Use::NginxLog, [log])?;
        }
        Ok(())
    }
}

/// What is to be so at nginx, where it is the edge. Nobody may take more of it than of the edge in the daemon.
pub fn place(config: &Config, instance: &str, domain: &Domain, secure: Option<SecurePlace>) -> Result<Place> {
    let Proxies { trusted, tls_port, .. } = proxies(config)?;
    let Limits { head, send, take, .. } = Limits::default();
    Ok(Place {
        trusted,
        external: tls_port,
        dir: files::dir(&config.state_dir),
        instance: instance.to_owned(),
        domain: domain.clone(),
        listen: config.http_addresses(),
        master: Master::of(&config.nginx),
        secure,
        bounds: Bounds { requests: Room::here().of_one, head, send, take, body: config.http.body_max },
    })
}

/// Who is believed in who their clients are. No container is: what strangers push runs there.
pub fn proxies(config: &Config) -> Result<Proxies> {
    let containers = [config.network.ipv4.to_string(), config.network.ipv6.to_string()];
    for range in &config.http.trusted_proxies {
        let is_in = |containers: &&String| Prefix::parse(containers).is_ok_and(|containers| containers.overlaps(range));
        if let Some(containers) = containers.iter().find(is_in) {
            return Err(Error::usage(format!(
                "`{range}` in `trusted_proxies` has addresses of containers in it, which are {containers}: what runs there would be believed"
            ))
            .hint("name the addresses of the proxies alone"));
        }
    }
    let tls_port = config.http.external.filter(|external| external.scheme == "https");
    Ok(Proxies {
        trusted: config.http.trusted_proxies.clone(),
        introduce: config.http.proxy_protocol,
        tls_port: tls_port.map(|external| external.port.unwrap_or(443)),
    })
}

/// Whether there could be an nginx as the configuration says, installed or not, and whom its workers run as.
pub fn check_nginx(config: &Config) -> Result<Uid> {
    proxies(config)?;
    if config.http.proxy_protocol {
        // `proxy_protocol` of a `listen` is for all servers of the site at that address, and for all clients.
        return Err(Error::usage("with nginx as the edge it is the site that says who introduces clients by the PROXY protocol")
            .hint("take `proxy_protocol` out of `[http]` of the configuration")
            .hint("the README, at \"Behind a load balancer\", has the lines that nginx's configuration needs: `set_real_ip_from`, `real_ip_header proxy_protocol`"));
    }
    if let Some(address) =
        config.http_addresses().iter().chain(&config.https.listen).find(|address| address.port() == 0)
    {
        return Err(Error::usage(format!("nginx cannot listen on `{address}`: it needs a port")));
    }
    must_be_plain(&config.state_dir)?;
    let name = &config.nginx.user;
    let user = User::from_name(name).or_failed(|| format!("failed to look up the user `{name}`"))?;
    let user = user.ok_or_else(|| {
        Error::usage(format!("there is no user `{name}`, whom nginx's workers are to run as"))
            .hint("say who does with `user` in `[nginx]` of the configuration")
    })?;
    Ok(user.uid)
}

/// The path comes to stand in nginx's configuration.
fn must_be_plain(dir: &Path) -> Result<()> {
    let text = dir.to_string_lossy();
    match text.chars().all(|c| c.is_alphanumeric() || "/._-+@,=~".contains(c)) {
        true => Ok(()),
        false => Err(Error::usage(format!("nginx cannot find its files in the state directory `{text}`"))
            .hint("its path may have letters, digits, and any of `/._-+@,=~`")),
    }
}

/// Whether the process that has a port is an nginx that has it for us, and would let go of it.
pub fn is_for_us(config: &Config, holder: &Holder) -> bool {
    let is_told = files::says_something(&files::dir(&config.state_dir));
    holder.name == "nginx" && is_told && Master::of(&config.nginx).find().is_some()
}

/// Takes back what was said to an nginx while it was the edge, so that it lets go of the ports.
async fn withdraw(config: &Config, instance: &str) {
    let (dir, keys) = (files::dir(&config.state_dir), files::certificates(&config.state_dir));
    if !files::says_something(&dir) {
        return files::remove_certificates(&keys);
    }
    for file in files::ALL.into_iter().rev() {
        if let Err(error) = files::write(&dir, file, Site::nothing()) {
            return tracing::warn!(%error, file, "failed to take back what nginx was told");
        }
    }
    match Master::of(&config.nginx).reload().await {
        Ok(_) => tokio::time::sleep(LETS_GO).await,
        Err(Trouble::NotRunning(_) | Trouble::NotInstalled) => {}
        Err(trouble) => return tracing::warn!(%trouble, "nginx may still have the edge's ports"),
    }
    if let Err(error) = Barrier::new(instance, Uid::current()).lift().await {
        tracing::warn!(%error, "failed to take back what nginx was kept from");
    }
    files::remove_certificates(&keys);
}

/// Tells people what becomes of nginx, for ever.
pub async fn tell(store: Store, of: ToldOfNginx) {
    tokio::join!(tell_of_troubles(&store, of.troubles), tell_of_snippets(&store, of.refusals));
}

/// Tells people of an app when nginx would not take its snippet, and when it has taken another one.
async fn tell_of_snippets(store: &Store, mut refusals: watch::Receiver<Refusals>) {
    let mut before = Refusals::new();
    loop {
        let now = refusals.borrow_and_update().clone();
        for app in before.keys().chain(now.keys()) {
            let text = match now.get(app) {
                Some(why) => {
                    format!("nginx does not follow the snippet of `{app}`: {why}; what it followed before holds")
                }
                None => format!("nginx follows the snippet of `{app}`"),
            };
            let turn = [EventKind::SnippetRefused, EventKind::SnippetTaken];
            match store.app(app).await {
                Ok(Some(_)) => {
                    let told = store.tell_turn(app, turn, !now.contains_key(app), ("flyloft", &text), store::now());
                    if let Err(error) = told.await {
                        tracing::error!(%error, "failed to record an event");
                    }
                }
                // A snippet may be there before its app.
                Ok(None) => tracing::warn!("{text}"),
                Err(error) => tracing::error!(%error, "failed to look for an app"),
            }
        }
        before = now;
        if refusals.changed().await.is_err() {
            return;
        }
    }
}

/// Tells people of every app when nginx does not do what it is to do, and when it does again.
async fn tell_of_troubles(store: &Store, mut troubles: watch::Receiver<Option<Trouble>>) {
    loop {
        let trouble = troubles.borrow_and_update().clone();
        let text = match &trouble {
            Some(trouble) => {
                tracing::error!(%trouble, "nginx is not what it should be");
                said(trouble)
            }
            None => "nginx does what it is to do".to_owned(),
        };
        let next = another(&mut troubles, &trouble);
        let mut next = std::pin::pin!(next);
        if tokio::time::timeout(LASTS, &mut next).await.is_ok() {
            continue;
        }
        if let Err(error) = tell_apps(store, trouble.is_none(), &text).await {
            tracing::error!(%error, "failed to record an event");
        }
        next.await;
    }
}

fn said(trouble: &Trouble) -> String {
    let more = if trouble.is_seen_by_doctor() { "; `flyloft doctor` says what to do" } else { "" };
    format!("{trouble}{more}")
}

/// Comes back when it is something else.
async fn another(troubles: &mut watch::Receiver<Option<Trouble>>, than: &Option<Trouble>) {
    if troubles.wait_for(|trouble| trouble != than).await.is_err() {
        std::future::pending().await
    }
}

async fn tell_apps(store: &Store, well: bool, text: &str) -> Result<(), store::StoreError> {
    let turn = [EventKind::EdgeFailed, EventKind::EdgeWorks];
    for app in store.apps().await? {
        store.tell_turn(&app.name, turn, well, ("flyloft", text), store::now()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_would_end_a_directive_of_nginx_is_refused() {
        must_be_plain(Path::new("/var/lib/flyloft-test/state_1")).unwrap();
        for path in ["/var/lib/a;b", "/var/lib/{a", "/var/lib/$host", "/var/lib/a\"b", "/var/lib/a#b"] {
            assert!(must_be_plain(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn people_are_sent_to_doctor_for_what_that_finds() {
        let certificate = Trouble::Certificate("`*.example.org`".to_owned(), "it has expired".to_owned());
        assert!(said(&certificate).contains("`flyloft doctor`"));
        assert!(!said(&Trouble::Slow).contains("doctor"));
    }

    #[test]
    fn no_container_is_a_proxy_to_be_believed() {
        let with = |range: &str| {
            let mut config = Config::default();
            config.http.trusted_proxies = vec![Prefix::parse(range).unwrap()];
            proxies(&config).map_err(|error| error.what)
        };
        assert!(with("10.0.0.5").is_ok() && with("2001:db8::/32").is_ok());
        for range in ["10.0.0.0/8", "10.213.7.1", "fd00::/8"] {
            let refused = with(range).unwrap_err();
            assert!(refused.contains("has addresses of containers in it"), "{refused}");
        }
    }

    #[test]
    fn nginx_needs_a_port_and_a_user_that_is_there() {
        let mut config = Config::default();
        config.http.listen = Some(vec!["[::]:0".parse().unwrap()]);
        assert_eq!(check_nginx(&config).unwrap_err().what, "nginx cannot listen on `[::]:0`: it needs a port");
        config.http.listen = Some(vec!["[::]:8080".parse().unwrap()]);
        config.https.listen = vec!["[::1]:0".parse().unwrap()];
        assert_eq!(check_nginx(&config).unwrap_err().what, "nginx cannot listen on `[::1]:0`: it needs a port");
        config.https.listen = vec!["[::]:8443".parse().unwrap()];
        config.nginx.user = "nobody-at-all".to_owned();
        let refused = check_nginx(&config).unwrap_err();
        assert_eq!(refused.what, "there is no user `nobody-at-all`, whom nginx's workers are to run as");
        config.nginx.user = "root".to_owned();
        assert!(check_nginx(&config).unwrap().is_root());
        config.http.trusted_proxies = vec![Prefix::parse("192.0.2.5").unwrap()];
        assert!(check_nginx(&config).unwrap().is_root());
        config.http.proxy_protocol = true;
        assert!(check_nginx(&config).unwrap_err().what.contains("PROXY protocol"));
        config.http.proxy_protocol = false;
        config.http.trusted_proxies = vec![Prefix::parse("10.0.0.0/8").unwrap()];
        assert!(check_nginx(&config).unwrap_err().what.contains("has addresses of containers in it"));
    }
}
