//! A signed text (a JWS, RFC 7515), and the keys that it may be signed by (JWK, RFC 7517 and 7518).

use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::Value;

use super::Disbelief;
use crate::name::excerpt;

/// No id token is as long, and no provider has as many keys.
const TOKEN_MAX: usize = 32 << 10;
const KEYS_MAX: usize = 64;

/// Half of a point of P-256, and the parts of a key of Ed25519, in bytes.
const HALF: usize = 32;

/// By which id tokens are signed. There is no other, and none at all is no algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

/// A text that says of itself by what it is signed. It is not looked yet whether it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    pub algorithm: Algorithm,
    kid: Option<String>,
    /// What is signed.
    pub message: &'a [u8],
    pub signature: Vec<u8>,
    /// What is said, as JSON.
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kid: Option<String>,
    /// It signs by this alone.
    algorithm: Option<String>,
    pub material: Material,
}

/// Big-endian numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point as in SEC 1 section 2.3.3, not compressed.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "ES256" => Algorithm::Es256,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }
}

impl<'a> Signed<'a> {
    pub fn parse(token: &'a str) -> Result<Self, Disbelief> {
        let malformed = || Disbelief::Malformed("its id token is no signed text");
        let (message, signature) = token.rsplit_once('.').filter(|_| token.len() <= TOKEN_MAX).ok_or_else(malformed)?;
        let (header, payload) =
            message.split_once('.').filter(|(_, rest)| !rest.contains('.')).ok_or_else(malformed)?;
        let decode = |text: &str| Base64UrlUnpadded::decode_vec(text).map_err(|_| malformed());
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
        // What must be understood and is not makes all of it invalid (RFC 7515 section 4.1.11).
        if !header["crit"].is_null() {
            return Err(Disbelief::Malformed("its id token asks for an extension that is not known here"));
        }
        let name = header["alg"].as_str().ok_or_else(malformed)?;
        let algorithm = Algorithm::parse(name).ok_or_else(|| Disbelief::Algorithm(excerpt(name)))?;
        Ok(Self {
            algorithm,
            kid: header["kid"].as_str().map(str::to_owned),
            message: message.as_bytes(),
            signature: decode(signature)?,
            payload: decode(payload)?,
        })
    }
}

impl PublicKey {
    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let number = |name: &str| Base64UrlUnpadded::decode_vec(text(name)?).ok().filter(|number| !number.is_empty());
        let half = |name: &str| number(name).filter(|number| number.len() == HALF);
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa { modulus: number("n")?, exponent: number("e")? },
            ("EC", Some("P-256")) => Material::P256([vec![4], half("x")?, half("y")?].concat()),
            ("OKP", Some("Ed25519")) => Material::Ed25519(half("x")?),
            _ => return None,
        };
        Some(Self { kid: text("kid").map(str::to_owned), algorithm: text("alg").map(str::to_owned), material })
    }

    /// Whether it may be what signed this.
    pub fn fits(&self, signed: &Signed<'_>) -> bool {
        let is_of_kind = matches!(
            (signed.algorithm, &self.material),
            (Algorithm::Rs256, Material::Rsa { .. })
                | (Algorithm::Es256, Material::P256(_))
                | (Algorithm::EdDsa, Material::Ed25519(_))
        );
        let is_named = signed.kid.as_ref().is_none_or(|kid| self.kid.as_ref() == Some(kid));
        let signs_so = self.algorithm.as_ref().is_none_or(|algorithm| algorithm == signed.algorithm.name());
        is_of_kind && is_named && signs_so
    }
}

/// The keys of a set that are for signatures and of a kind that is known here.
pub fn keys(json: &[u8]) -> Result<Vec<PublicKey>, Disbelief> {
    let malformed = Disbelief::Malformed("what it has for its keys is no set of keys");
    let Ok(Value::Object(set)) = serde_json::from_slice(json) else { return Err(malformed) };
    let Some(Value::Array(keys)) = set.get("keys") else { return Err(malformed) };
    Ok(keys.iter().filter_map(PublicKey::parse).take(KEYS_MAX).collect())
}
