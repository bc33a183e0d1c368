//! TXT records by dynamic update (RFC 2136), signed with a key that the DNS server shares with us (TSIG, RFC 8945).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64ct::{Base64, Encoding};
use hickory_client::client::ClientHandle;
use hickory_client::proto::ProtoErrorKind;
use hickory_client::proto::dnssec::rdata::tsig::TsigAlgorithm;
use hickory_client::proto::dnssec::tsig::TSigner;
use hickory_client::proto::op::{MessageFinalizer, ResponseCode};
use hickory_client::proto::rr::rdata::TXT;
use hickory_client::proto::rr::{RData, Record};
use hickory_client::{ClientError, ClientErrorKind};

use super::link::{Link, absolute};
use super::{Publish, TTL, secret};
use crate::config::{Algorithm, Rfc2136};

/// How long the server may take.
const LIMIT: Duration = Duration::from_secs(20);

/// How far our clock and the server's may be apart, in seconds, as is usual (RFC 8945 section 10).
const FUDGE: u16 = 300;

pub struct Update {
    /// The zone that the record is in.
    pub zone: String,
    pub config: Rfc2136,
}

/// What is to become of a record.
#[derive(Clone, Copy)]
enum Change {
    Add,
    Remove,
}

impl Update {
    async fn change(&self, change: Change, name: &str, value: &str) -> Result<(), String> {
        let changed = tokio::time::timeout(LIMIT, self.ask(change, name, value)).await;
        let late = |_| Err(format!("`{}` did not answer within {} s", self.config.server, LIMIT.as_secs()));
        changed.unwrap_or_else(late)
    }

    async fn ask(&self, change: Change, name: &str, value: &str) -> Result<(), String> {
        let (server, zone) = (self.config.server, absolute(&self.zone)?);
        let name = absolute(name)?;
        if !zone.zone_of(&name) {
            return Err(format!("`{name}` is not in the zone `{}`", self.zone));
        }
        let record = Record::from_rdata(name, TTL, RData::TXT(TXT::new(vec![value.to_owned()])));
        let signer: Arc<dyn MessageFinalizer> = Arc::new(self.signer()?);
        let mut link = Link::open(server, LIMIT, Some(signer)).await?;
        let asked = match change {
            // Others may have a record of that name, as for another certificate.
            Change::Add => link.client.append(record, zone, false).await,
            Change::Remove => link.client.delete_by_rdata(record, zone).await,
        };
        let answer = asked.map_err(|error| self.failed(&error))?;
        match answer.response_code() {
            ResponseCode::NoError => Ok(()),
            refused => Err(format!("`{server}` refused the update of zone `{}`: {refused}", self.zone)),
        }
    }

    fn failed(&self, error: &ClientError) -> String {
        let (server, zone, key) = (self.config.server, &self.zone, &self.config.key);
        match error.kind() {
            ClientErrorKind::Proto(error) if matches!(*error.kind, ProtoErrorKind::Io(_) | ProtoErrorKind::Timeout) => {
                format!("`{server}` failed: {error}")
            }
            // A refusal is not signed as an answer is to be, and then it is not known which one it is.
            _ => format!(
                "`{server}` refused the update: it does not know the key `{key}` as it is here, has no zone `{zone}`, or \
                 its clock and this machine's are apart"
            ),
        }
    }

    fn signer(&self) -> Result<TSigner, String> {
        let Rfc2136 { key, secret: file, algorithm, .. } = &self.config;
        let path = file.display();
        let secret = Base64::decode_vec(&secret(file)?).map_err(|_| format!("`{path}` holds no key in base64"))?;
        let algorithm = match algorithm {
            Algorithm::HmacSha256 => TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha384 => TsigAlgorithm::HmacSha384,
            Algorithm::HmacSha512 => TsigAlgorithm::HmacSha512,
        };
        let signer = TSigner::new(secret, algorithm, absolute(key)?, FUDGE);
        signer.map_err(|error| format!("the key in `{path}` cannot be used: {error}"))
    }
}

#[async_trait]
impl Publish for Update {
    async fn publish(&self, name: &str, value: &str) -> Result<(), String> {
        self.change(Change::Add, name, value).await
    }

    async fn withdraw(&self, name: &str, value: &str) -> Result<(), String> {
        self.change(Change::Remove, name, value).await
    }
}
