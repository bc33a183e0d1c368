//! Whether a text is signed by a key.

use flyloft_core::sso::{Claims, Disbelief, Material, PublicKey, Signed};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

/// What an id token says that is signed by one of these keys.
pub fn read(token: &str, keys: &[PublicKey]) -> Result<Claims, Disbelief> {
    let signed = Signed::parse(token)?;
    let mut fitting = keys.iter().filter(|key| key.fits(&signed)).peekable();
    if fitting.peek().is_none() {
        return Err(Disbelief::NoKey);
    }
    match fitting.any(|key| is_signed_by(&signed, &key.material)) {
        true => Claims::parse(&signed.payload),
        false => Err(Disbelief::Signature),
    }
}

/// Each kind of key has one algorithm: RFC 7518 sections 3.3 and 3.4, and RFC 8037 section 3.1.
fn is_signed_by(signed: &Signed<'_>, material: &Material) -> bool {
    let Signed { message, signature, .. } = signed;
    let verified = match material {
        Material::Rsa { modulus, exponent } => {
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
        }
        Material::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature),
        Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
    };
    verified.is_ok()
}

#[cfg(test)]
mod tests {
    use flyloft_core::sso::keys;

    use super::*;

    /// RFC 7515 appendix A.2.
    const RSA: (&str, &str) = (
        r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}"#,
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    );

    /// RFC 7515 appendix A.3.
    const P256: (&str, &str) = (
        r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#,
        "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
    );

    fn is_signed(set: &str, token: &str) -> bool {
        let signed = Signed::parse(token).unwrap();
        let keys = keys(set.as_bytes()).unwrap();
        keys.iter().any(|key| key.fits(&signed) && is_signed_by(&signed, &key.material))
    }

    #[test]
    fn what_the_standards_have_for_an_example_is_signed_and_what_is_changed_is_not() {
        for (set, token) in [RSA, P256] {
            assert!(is_signed(set, token));
            let at = token.rfind('.').unwrap();
            for at in [at - 1, at + 1, token.len() - 3] {
                let mut bad = token.as_bytes().to_vec();
                bad[at] = if bad[at] == b'A' { b'E' } else { b'A' };
                assert!(!is_signed(set, std::str::from_utf8(&bad).unwrap()), "{at}");
            }
        }
        assert!(!is_signed(RSA.0, P256.1) && !is_signed(P256.0, RSA.1));
        assert_eq!(read(RSA.1, &keys(P256.0.as_bytes()).unwrap()), Err(Disbelief::NoKey));
    }
}
