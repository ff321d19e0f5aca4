//! A signing key in a PKCS#11 token, named by a URI (RFC 7512). The module is loaded for the one command that needs it;
//! what is hashed is hashed here, and the token signs the digest (CKM_ECDSA).

use crate::args::SecretSource;
use crate::error::{Exit, Failure};
use crate::secret;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use std::collections::BTreeMap;
use std::path::PathBuf;
use turnout_manifest::Sha256;
use turnout_manifest::key::{PublicKey, signature_of_token};

/// How a URI of a token begins.
pub const SCHEME: &str = "pkcs11:";
/// Longest URI, bytes.
const URI_MAX: usize = 4096;

const EXAMPLE: &str =
    "write `pkcs11:token=NAME;object=NAME?module-path=/PATH/TO/MODULE.so&pin-source=/PATH/TO/PIN`";

/// A key in a token, ready to sign.
pub struct TokenKey {
    session: Session,
    private: ObjectHandle,
    public: PublicKey,
}

impl TokenKey {
    /// Its public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The strict DER, low-S signature over SHA-256 of the message.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Failure> {
        let digest = Sha256::of(message);
        let raw =
            self.session.sign(&Mechanism::Ecdsa, self.private, digest.as_bytes()).map_err(failed("sign"))?;
        signature_of_token(&raw).map_err(|_| {
            Failure::new(Exit::Failed, "the token gave something that is no signature over P-256")
        })
    }
}

/// Opens the one key that the URI names.
pub fn open(uri: &str) -> Result<TokenKey, Failure> {
    let uri = Uri::parse(uri)?;
    let module = Pkcs11::new(&uri.module).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("cannot load the PKCS#11 module `{}`: {error}", uri.module.display()),
        )
        .hint("name the module of your token, such as `/usr/lib/softhsm/libsofthsm2.so`")
    })?;
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .map_err(failed("start the module"))?;
    let slot = slot(&module, &uri)?;
    let session = module.open_ro_session(slot).map_err(failed("open a session"))?;
    let pin = secret::read(&uri.pin)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into()))).map_err(|error| {
        Failure::new(Exit::Refused, format!("the token does not take the PIN: {error}"))
            .hint("after some wrong PINs most tokens lock themselves: look before you try again")
    })?;
    let private = object(&session, &uri, ObjectClass::PRIVATE_KEY)?;
    let public = public_half(&session, private, &uri)?;
    Ok(TokenKey { session, private, public })
}

fn failed(what: &'static str) -> impl Fn(cryptoki::error::Error) -> Failure {
    move |error| Failure::new(Exit::Failed, format!("the token cannot {what}: {error}"))
}

/// The slot with the token of this name; with none given, the only one.
fn slot(module: &Pkcs11, uri: &Uri) -> Result<Slot, Failure> {
    let mut fitting = Vec::new();
    for slot in module.get_slots_with_initialized_token().map_err(failed("be listed"))? {
        let info = module.get_token_info(slot).map_err(failed("be described"))?;
        let named = uri.token.as_deref().is_none_or(|name| info.label().trim_end() == name);
        let numbered = uri.serial.as_deref().is_none_or(|serial| info.serial_number().trim_end() == serial);
        if named && numbered {
            fitting.push(slot);
        }
    }
    match fitting.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(Failure::new(Exit::Failed, "no token fits the URI")
            .hint("is it plugged in? `token` is its label")),
        [..] => Err(Failure::new(Exit::Usage, format!("{} tokens fit the URI", fitting.len()))
            .hint("name one with `token=` or `serial=`")),
    }
}

fn object(session: &Session, uri: &Uri, class: ObjectClass) -> Result<ObjectHandle, Failure> {
    let mut template = vec![Attribute::Class(class)];
    template.extend(uri.object.as_ref().map(|name| Attribute::Label(name.clone().into_bytes())));
    template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
    let found = session.find_objects(&template).map_err(failed("look for the key"))?;
    match found.as_slice() {
        [object] => Ok(*object),
        [] => Err(Failure::new(Exit::Failed, "the token has no key of this name")
            .hint("`object` is its label, `id` its CKA_ID; both halves must be there under the same")),
        [..] => Err(Failure::new(Exit::Usage, format!("{} keys of the token fit the URI", found.len()))
            .hint("name one with `object=` and `id=%01`")),
    }
}

/// The public key object with the private one's CKA_ID, as a key of ours.
fn public_half(session: &Session, private: ObjectHandle, uri: &Uri) -> Result<PublicKey, Failure> {
    let ids = session.get_attributes(private, &[AttributeType::Id]).map_err(failed("describe the key"))?;
    let id = ids.into_iter().find_map(|attribute| match attribute {
        Attribute::Id(id) if !id.is_empty() => Some(id),
        _ => None,
    });
    let same = Uri { id: id.or_else(|| uri.id.clone()), ..uri.clone() };
    let public = object(session, &same, ObjectClass::PUBLIC_KEY)?;
    let attributes = session
        .get_attributes(public, &[AttributeType::EcPoint, AttributeType::EcParams])
        .map_err(failed("describe the public key"))?;
    let (mut point, mut curve) = (None, None);
    for attribute in attributes {
        match attribute {
            Attribute::EcPoint(bytes) => point = Some(bytes),
            Attribute::EcParams(bytes) => curve = Some(bytes),
            _ => {}
        }
    }
    let wrong = || Failure::new(Exit::Refused, "the token's key is not on the curve P-256");
    PublicKey::from_token(&curve.ok_or_else(wrong)?, &point.ok_or_else(wrong)?).map_err(|error| {
        Failure::from_error(Exit::Refused, &error)
            .hint("make one with `pkcs11-tool --keypairgen --key-type EC:prime256v1`")
    })
}

/// What the URI says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Uri {
    token: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module: PathBuf,
    pin: SecretSource,
}

impl Uri {
    fn parse(text: &str) -> Result<Self, Failure> {
        let refused = |what: String| Failure::new(Exit::Usage, what).hint(EXAMPLE);
        let body = text.strip_prefix(SCHEME).filter(|body| body.len() <= URI_MAX);
        let body = body.ok_or_else(|| refused("not a URI of a token".to_owned()))?;
        let (path, query) = body.split_once('?').unwrap_or((body, ""));
        let mut given = BTreeMap::new();
        for part in path.split(';').chain(query.split('&')).filter(|part| !part.is_empty()) {
            let pair = part.split_once('=').and_then(|(name, value)| Some((name, decoded(value)?)));
            // The part may hold a secret that does not belong there: it is not repeated.
            let (name, value) = pair.ok_or_else(|| refused("the URI is not well-formed".to_owned()))?;
            if name == "pin-value" {
                return Err(refused(
                    "a PIN on the command line can be read by everybody on this host".to_owned(),
                ));
            }
            if given.insert(name, value).is_some() {
                return Err(refused(format!("`{name}` stands twice in the URI")));
            }
        }
        let id = given.remove("id");
        let mut texts = BTreeMap::new();
        for (name, value) in given {
            let text = String::from_utf8(value).map_err(|_| refused(format!("`{name}` is not UTF-8")))?;
            texts.insert(name, text);
        }
        // What every key that fits has anyway.
        if texts.remove("type").is_some_and(|kind| kind != "private") {
            return Err(refused("`type` can only be `private` here".to_owned()));
        }
        let mut take = |name: &str| texts.remove(name);
        let (token, serial, object) = (take("token"), take("serial"), take("object"));
        let module = take("module-path").map(PathBuf::from).filter(|path| path.is_absolute());
        let module =
            module.ok_or_else(|| refused("the URI needs `module-path`, an absolute path".to_owned()))?;
        let pin = take("pin-source").ok_or_else(|| refused("the URI needs `pin-source`".to_owned()))?;
        if let Some(unknown) = texts.keys().next() {
            return Err(refused(format!("`{unknown}` is not known in a URI here")));
        }
        if object.is_none() && id.is_none() {
            return Err(refused("the URI needs `object` or `id`".to_owned()));
        }
        let pin = pin.parse().unwrap_or_else(|_| SecretSource::File(pin.into()));
        Ok(Self { token, serial, object, id, module, pin })
    }
}

/// Percent-encoding undone (RFC 3986, 2.1).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || (bytes.next()? as char).to_digit(16);
            out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_token_key_module_and_where_the_pin_is() {
        let uri =
            Uri::parse("pkcs11:token=My%20token;object=release;id=%01%ab?module-path=/m.so&pin-source=/pin")
                .unwrap();
        assert_eq!(uri.token.as_deref(), Some("My token"));
        assert_eq!((uri.object.as_deref(), uri.id), (Some("release"), Some(vec![1, 0xab])));
        assert_eq!((uri.module, uri.pin), ("/m.so".into(), SecretSource::File("/pin".into())));
        let uri = Uri::parse("pkcs11:object=a?module-path=/m.so&pin-source=credential:pin").unwrap();
        assert_eq!(uri.pin, SecretSource::Credential("pin".to_owned()));
    }

    #[test]
    fn uris_that_lack_something_or_hold_a_pin_are_refused() {
        for (bad, expected) in [
            ("pkcs11:object=a?module-path=/m.so", "pin-source"),
            ("pkcs11:object=a?module-path=m.so&pin-source=/p", "module-path"),
            ("pkcs11:object=a?pin-source=/p", "module-path"),
            ("pkcs11:token=a?module-path=/m.so&pin-source=/p", "`object` or `id`"),
            ("pkcs11:object=a?module-path=/m.so&pin-value=1234", "can be read by everybody"),
            ("pkcs11:object=a;object=b?module-path=/m.so&pin-source=/p", "twice"),
            ("pkcs11:object=%zz?module-path=/m.so&pin-source=/p", "not well-formed"),
            ("pkcs11:object=a;slot-id=1?module-path=/m.so&pin-source=/p", "slot-id"),
            ("pkcs11:object=a;type=public?module-path=/m.so&pin-source=/p", "type"),
        ] {
            let failure = Uri::parse(bad).unwrap_err();
            assert!(failure.message().contains(expected), "{bad}: {}", failure.message());
            assert!(!failure.to_string().contains("1234"), "a PIN is not repeated");
        }
    }
}
