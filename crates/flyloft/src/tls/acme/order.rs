//! One order, top to bottom: account, order, proof that the domain is ours, certificate. What has been begun is on
//! record, so that the next daemon goes on with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flyloft_core::acme::may_order_at;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::client::Client;
use super::dns::{Eyes, Publish};
use super::error::{AcmeError, is};
use crate::config::{self, CertificateFiles};
use crate::parts::Parts;
use crate::store::{OrderRow, StoreError};
use crate::tls::{Answers, Pair};

/// What sealed texts are for.
const ACCOUNT: &str = "acme account";
const ORDER: &str = "acme order";

/// By how many seconds the machine's clock may be off. What is issued holds from an hour before on, with Let's Encrypt.
const APART: i64 = 12 * 60 * 60;

/// Where certificates are asked for.
pub struct Desk {
    pub parts: Arc<Parts>,
    pub config: config::Acme,
    /// Host names of the server's own, beside those of environments.
    pub hosts: Vec<String>,
    pub way: Way,
    /// Seconds since 1970 by the machine's clock.
    pub clock: fn() -> i64,
    pub patience: Patience,
}

/// How it is shown that a name is ours.
pub enum Way {
    /// By a TXT record, for all environments at once.
    Dns { publish: Arc<dyn Publish>, eyes: Eyes },
    /// By an answer over HTTP, for each host name.
    Http(Arc<Answers>),
}

/// How long a server is waited for.
pub struct Patience {
    /// For an answer.
    pub answer: Duration,
    /// For it to judge, and to issue.
    pub order: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(60), order: Duration::from_secs(300) }
    }
}

/// A certificate that there is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// A host name, or one with a `*` in place of the first label.
    pub name: String,
    pub files: CertificateFiles,
}

impl Wanted {
    /// A host name that it is for.
    pub fn sample(&self) -> String {
        self.name.replacen('*', "any", 1)
    }
}

/// A certificate with those that issued it, and its key.
pub struct Issued {
    pub chain: String,
    pub key: String,
}

/// A TXT record.
type Published = (String, String);

impl Desk {
    pub fn now(&self) -> i64 {
        (self.clock)()
    }

    /// The certificates that there are to be. Those of hosts that are gone go as well.
    pub async fn want(&self) -> Result<Vec<Wanted>, StoreError> {
        let (domain, keeper, now) = (&self.parts.settings.domain, &self.parts.keeper, self.now());
        if let Way::Dns { .. } = self.way {
            let all = Wanted { name: format!("*.{domain}"), files: keeper.local.asked() };
            if keeper.covers(&all.sample(), now) {
                keeper.keep_hosts(&BTreeSet::new());
            }
            return Ok(vec![all]);
        }
        let hosts = self.parts.store.acme_hosts(&self.hosts).await?;
        let hosts: BTreeSet<String> = hosts.into_iter().filter(|host| !keeper.covers(host, now)).collect();
        keeper.keep_hosts(&hosts);
        Ok(hosts.into_iter().map(|name| Wanted { files: keeper.local.of_host(&name), name }).collect())
    }

    /// The account at the server, which is made if there is none, and what asks for it.
    pub async fn account(&self) -> Result<(Account, Client), AcmeError> {
        let (store, vault, directory) = (&self.parts.store, &self.parts.vault, &self.config.directory);
        let client = Client::new(&self.config.roots, self.patience.answer, self.clock)?;
        let builder = Account::builder_with_http(Box::new(client.clone()));
        let failed = |error| AcmeError::of(error, client.heard());
        // What was sealed with another key is as good as none.
        let sealed = store.acme_account(directory).await?;
        if let Some(text) = sealed.and_then(|sealed| vault.open_sealed(ACCOUNT, &sealed).ok()) {
            let credentials: AccountCredentials = serde_json::from_str(&text)?;
            let account = builder.from_credentials(credentials).await.map_err(failed)?;
            return Ok((account, client));
        }
        let contact: Vec<String> = self.config.contact.iter().map(|address| format!("mailto:{address}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder.create(&new, directory.clone(), None).await.map_err(failed)?;
        let text = serde_json::to_string(&credentials)?;
        store.set_acme_account(directory, Some(vault.seal(ACCOUNT, &text))).await?;
        Ok((account, client))
    }

    /// What is wanted, in place of what there is. Its order stays on record until it is kept.
    pub async fn obtain(&self, wanted: &Wanted, before: Option<&Pair>) -> Result<Issued, AcmeError> {
        let (account, client) = self.account().await?;
        if let Some(ahead) = client.heard().ahead.filter(|ahead| ahead.abs() > APART) {
            return Err(AcmeError::Clock { ahead });
        }
        let under_way = async {
            let (mut order, key) = self.order(&account, &client, &wanted.name, before).await?;
            Errand { desk: self, client: &client, order: &mut order }.run(&wanted.name, &key).await
        };
        let ended = under_way.await;
        if let Err(error) = &ended {
            self.let_go(wanted, error).await?;
        }
        ended
    }

    /// Forgets what is of no more use after this error.
    pub async fn let_go(&self, wanted: &Wanted, error: &AcmeError) -> Result<(), AcmeError> {
        if error.ends_order() {
            self.parts.store.end_acme_order(&wanted.name).await?;
        }
        if matches!(error, AcmeError::Refused(problem) if is(problem, "accountDoesNotExist")) {
            self.parts.store.set_acme_account(&self.config.directory, None).await?;
        }
        Ok(())
    }

    /// The order that is on record, or a new one, with the private key of what it is for.
    async fn order(
        &self,
        account: &Account,
        client: &Client,
        name: &str,
        before: Option<&Pair>,
    ) -> Result<(Order, KeyPair), AcmeError> {
        let (store, vault, directory) = (&self.parts.store, &self.parts.vault, &self.config.directory);
        let failed = |error| AcmeError::of(error, client.heard());
        let known = store.acme_order(name).await?.filter(|known| known.directory == *directory);
        let key = known.as_ref().and_then(|known| vault.open_sealed(ORDER, &known.key).ok());
        if let (Some(known), Some(key)) = (known, key) {
            match account.order(known.url).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        return Ok((order, KeyPair::from_pem(&key)?));
                    }
                }
                // It is forgotten, in whichever words.
                Err(_) if client.heard().is_missing() => {}
                // Or another account's.
                Err(instant_acme::Error::Api(problem)) if is_about_order(&problem) && !client.heard().is_passing() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let (ordered, now) = (store.acme_ordered().await?, self.now());
        let until = may_order_at(name, &ordered, now);
        if until > now {
            return Err(AcmeError::Many { until });
        }
        let order = new_order(account, client, name, before.and_then(Pair::renewal_id)).await.map_err(failed)?;
        let key = KeyPair::generate()?;
        let row = OrderRow {
            name: name.to_owned(),
            directory: directory.clone(),
            url: order.url().to_owned(),
            key: vault.seal(ORDER, &key.serialize_pem()),
        };
        store.begin_acme_order(row, now).await?;
        Ok((order, key))
    }
}

/// A problem with an order that is asked for by its address alone, and not with the server or the account.
fn is_about_order(problem: &instant_acme::Problem) -> bool {
    is(problem, "malformed") || is(problem, "unauthorized")
}

/// What a new certificate `replaces` is told where the server listens: it may then count less (RFC 9773 section 5).
async fn new_order(
    account: &Account,
    client: &Client,
    name: &str,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, instant_acme::Error> {
    let names = [Identifier::Dns(name.to_owned())];
    if let Some(replaces) = replaces {
        match account.new_order(&NewOrder::new(&names).replaces(replaces)).await {
            // It knows nothing of that.
            Err(instant_acme::Error::Unsupported(_)) => {}
            // Or not of this certificate, as after a change of the server.
            Err(instant_acme::Error::Api(problem)) if !is(&problem, "rateLimited") && !client.heard().is_passing() => {
                tracing::debug!(%problem, "the certificate that is replaced is not told");
            }
            ended => return ended,
        }
    }
    account.new_order(&NewOrder::new(&names)).await
}

/// An order that is gone on with.
struct Errand<'a> {
    desk: &'a Desk,
    client: &'a Client,
    order: &'a mut Order,
}

impl Errand<'_> {
    /// From wherever it is to the certificate.
    async fn run(&mut self, name: &str, key: &KeyPair) -> Result<Issued, AcmeError> {
        let patience = RetryPolicy::default().timeout(self.desk.patience.order);
        if self.order.state().status == OrderStatus::Pending {
            let mut records = Vec::new();
            let judged = self.be_judged(name, &patience, &mut records).await;
            self.withdraw(name, &records).await;
            judged?;
        }
        if self.order.state().status == OrderStatus::Ready {
            let mut params = CertificateParams::new(vec![name.to_owned()])?;
            params.distinguished_name = DistinguishedName::new();
            let request = params.serialize_request(key)?;
            self.order.finalize_csr(request.der()).await.map_err(|error| self.failed(error))?;
        }
        let chain = self.order.poll_certificate(&patience).await.map_err(|error| self.failed(error))?;
        Ok(Issued { chain, key: key.serialize_pem() })
    }

    /// Takes back what was shown.
    async fn withdraw(&self, name: &str, records: &[Published]) {
        match &self.desk.way {
            Way::Http(answers) => answers.forget(name),
            Way::Dns { publish, .. } => {
                for (record, value) in records {
                    if let Err(why) = publish.withdraw(record, value).await {
                        tracing::warn!(record, why, "failed to take a TXT record away");
                    }
                }
            }
        }
    }

    /// Comes back when the server believes that the name is ours. What was published for that is in `records`.
    async fn be_judged(
        &mut self,
        name: &str,
        patience: &RetryPolicy,
        records: &mut Vec<Published>,
    ) -> Result<(), AcmeError> {
        self.prove(name, records).await?;
        let why = match self.order.poll_ready(patience).await {
            Ok(OrderStatus::Ready) => return Ok(()),
            Ok(_) => None,
            // It stands in the order, and is no answer in its place.
            Err(instant_acme::Error::Api(problem)) if self.client.heard().is_well() && !is(&problem, "rateLimited") => {
                problem.detail
            }
            Err(error) => return Err(self.failed(error)),
        };
        // What the order says is less than what its parts say.
        let why = refusal(self.order).await.or(why).unwrap_or_else(|| "it does not say why".to_owned());
        Err(match self.desk.way {
            Way::Dns { .. } => AcmeError::Unproven(why),
            Way::Http(_) => AcmeError::Unreached(why),
        })
    }

    /// Shows what the server wants to see, and tells it to look when it can be seen.
    async fn prove(&mut self, name: &str, records: &mut Vec<Published>) -> Result<(), AcmeError> {
        let Desk { way, config, parts, .. } = self.desk;
        let (kind, by) = match way {
            Way::Dns { .. } => (ChallengeType::Dns01, "DNS"),
            Way::Http(_) => (ChallengeType::Http01, "HTTP"),
        };
        let failed = |error| AcmeError::of(error, self.client.heard());
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let mut challenge = authorization.challenge(kind.clone()).ok_or(AcmeError::NoProof(by))?;
            let proof = challenge.key_authorization();
            match way {
                Way::Http(answers) => answers.set(name, &challenge.token, proof.as_str()),
                Way::Dns { publish, eyes } => {
                    let (record, value) = (format!("_acme-challenge.{}", parts.settings.domain), proof.dns_value());
                    // Before it is there, so that it is taken away wherever this ends.
                    records.push((record.clone(), value.clone()));
                    let published = publish.publish(&record, &value).await;
                    published.map_err(|why| AcmeError::Unpublished { record: record.clone(), why })?;
                    let seen = eyes.wait(&record, &value, config.propagation).await;
                    seen.map_err(|why| AcmeError::Unseen { record, why })?;
                }
            }
            // A daemon before this one may have told it.
            if challenge.status == ChallengeStatus::Pending {
                challenge.set_ready().await.map_err(failed)?;
            }
        }
        Ok(())
    }

    fn failed(&self, error: instant_acme::Error) -> AcmeError {
        AcmeError::of(error, self.client.heard())
    }
}

/// Why the server does not believe that the domain is ours, in its own words.
async fn refusal(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let said = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()?.detail.clone());
        if said.is_some() {
            return said;
        }
    }
    None
}
