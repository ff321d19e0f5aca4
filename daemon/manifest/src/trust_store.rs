//! The trust store: whose key counts for which models. Each key stands in it once, under its own id.
//! Where it is kept, and who may change it, is left to others.

use crate::canonical::{self, CanonicalError};
use crate::document::printable;
use crate::ids::ModelName;
use crate::key::{KeyId, PublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The schema name of a trust store's JSON.
pub const TRUST_SCHEMA: &str = "turnout.trust/v1";
/// Greatest number of trusted keys.
pub const KEYS_MAX: usize = 256;
/// Greatest number of globs of one key.
pub const GLOBS_MAX: usize = 64;
/// Greatest length of a glob, bytes.
pub const GLOB_MAX: usize = 64;
/// Greatest length of an issuer's name, bytes.
pub const ISSUER_MAX: usize = 64;
/// Why a trust store, or a part of one, was refused.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Not the canonical JSON of a trust store.
    #[error("not a trust store in canonical JSON")]
    Json(#[source] CanonicalError),
    /// Another schema than [`TRUST_SCHEMA`].
    #[error("schema `{0}` is not `{TRUST_SCHEMA}`")]
    Schema(String),
    /// More than [`KEYS_MAX`] keys.
    #[error("{0} trusted keys: at most {KEYS_MAX} are allowed")]
    TooManyKeys(usize),
    /// One key twice.
    #[error("key `{key_id}` is already trusted, for issuer `{issuer}`: remove it first")]
    KeyTwice {
        /// The key.
        key_id: KeyId,
        /// Whose it is already.
        issuer: String,
    },
    /// The id that stands beside a key is another key's.
    #[error("key of issuer `{issuer}` has the id `{actual}`, but `{stated}` stands beside it")]
    KeyIdMismatch {
        /// Whose key it is.
        issuer: String,
        /// The id of the key.
        actual: KeyId,
        /// The id in the store.
        stated: KeyId,
    },
    /// An issuer's name outside its alphabet.
    #[error("issuer `{0}` must be 1 to {ISSUER_MAX} of a-z A-Z 0-9 . - _ @ and begin with a letter or digit")]
    Issuer(String),
    /// A glob that can match no model name.
    #[error("glob `{0}` must be 1 to {GLOB_MAX} of a-z A-Z 0-9 - _ *")]
    Glob(String),
    /// No glob, or more than [`GLOBS_MAX`].
    #[error("issuer `{issuer}` has {count} globs: 1 to {GLOBS_MAX} are needed, `*` is every model")]
    GlobCount {
        /// Whose key it is.
        issuer: String,
        /// How many there are.
        count: usize,
    },
}

/// A pattern over model names: `*` stands for any run of characters, also none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelGlob(String);

impl ModelGlob {
    /// True if the pattern covers the model.
    pub fn matches(&self, model: &ModelName) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = model.as_str().strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// True if a text can be covered by both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (left, right) = (self.0.as_bytes(), other.0.as_bytes());
        // Whether what is left of one pattern from here on, and of the other, can cover the same text: from the ends.
        let mut can = vec![vec![false; right.len() + 1]; left.len() + 1];
        for i in (0..=left.len()).rev() {
            for j in (0..=right.len()).rev() {
                can[i][j] = match (left.get(i), right.get(j)) {
                    (None, None) => true,
                    (Some(b'*'), there) => can[i + 1][j] || (there.is_some() && can[i][j + 1]),
                    (here, Some(b'*')) => can[i][j + 1] || (here.is_some() && can[i + 1][j]),
                    (Some(here), Some(there)) => here == there && can[i + 1][j + 1],
                    (None, Some(_)) | (Some(_), None) => false,
                };
            }
        }
        can[0][0]
    }
}

impl FromStr for ModelGlob {
    type Err = TrustError;
    fn from_str(text: &str) -> Result<Self, TrustError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
        let fits = (1..=GLOB_MAX).contains(&text.len()) && text.bytes().all(legal);
        if fits { Ok(Self(text.to_owned())) } else { Err(TrustError::Glob(printable(text))) }
    }
}

impl TryFrom<String> for ModelGlob {
    type Error = TrustError;
    fn try_from(text: String) -> Result<Self, TrustError> {
        text.parse()
    }
}

impl From<ModelGlob> for String {
    fn from(glob: ModelGlob) -> String {
        glob.0
    }
}

impl fmt::Display for ModelGlob {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

/// One key that counts, for some models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustedKey {
    /// Whose key it is.
    pub issuer: String,
    /// The id of the key.
    pub key_id: KeyId,
    /// The models it may sign.
    pub models: Vec<ModelGlob>,
    /// The key.
    pub public_key: PublicKey,
}

impl TrustedKey {
    /// A key that counts for the models that any of the globs covers.
    ///
    /// # Errors
    /// [`TrustError`] about the issuer's name or the globs.
    pub fn new(issuer: &str, public_key: PublicKey, models: &[String]) -> Result<Self, TrustError> {
        let models = models.iter().map(|glob| glob.parse()).collect::<Result<_, _>>()?;
        let key = Self { issuer: issuer.to_owned(), key_id: public_key.id(), models, public_key };
        key.check()?;
        Ok(key)
    }

    /// True if the key may sign versions of this model.
    pub fn covers(&self, model: &ModelName) -> bool {
        self.models.iter().any(|glob| glob.matches(model))
    }

    fn check(&self) -> Result<(), TrustError> {
        check_owner(&self.issuer).map_err(|()| TrustError::Issuer(printable(&self.issuer)))?;
        let (issuer, count) = (self.issuer.clone(), self.models.len());
        if count == 0 || count > GLOBS_MAX {
            return Err(TrustError::GlobCount { issuer, count });
        }
        let (actual, stated) = (self.public_key.id(), self.key_id);
        if actual != stated { Err(TrustError::KeyIdMismatch { issuer, actual, stated }) } else { Ok(()) }
    }
}

/// Whether this can be the name of an issuer, or of who owns a key.
pub(crate) fn check_owner(name: &str) -> Result<(), ()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_@".contains(&byte);
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins && name.len() <= ISSUER_MAX && name.bytes().all(legal) { Ok(()) } else { Err(()) }
}

/// The keys that count, each once. One good signature of a key that covers the model is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustStore {
    keys: Vec<TrustedKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireStore {
    keys: Vec<TrustedKey>,
    schema: String,
}

impl TrustStore {
    /// Reads the canonical JSON of a store.
    ///
    /// # Errors
    /// Any [`TrustError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, TrustError> {
        let wire: WireStore = canonical::from_canonical(bytes).map_err(TrustError::Json)?;
        if wire.schema != TRUST_SCHEMA {
            return Err(TrustError::Schema(printable(&wire.schema)));
        }
        let mut store = Self::default();
        for key in wire.keys {
            store.add(key)?;
        }
        Ok(store)
    }

    /// The canonical JSON of the store.
    ///
    /// # Errors
    /// [`TrustError::Json`] when it would be larger than a document may be.
    pub fn to_json(&self) -> Result<Vec<u8>, TrustError> {
        let wire = WireStore { keys: self.keys.clone(), schema: TRUST_SCHEMA.to_owned() };
        canonical::to_canonical(&wire).map_err(TrustError::Json)
    }

    /// The keys, in the order in which they were added.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.keys
    }

    /// Adds a key.
    ///
    /// # Errors
    /// [`TrustError`] when it is not sound, is there already or the store is full.
    pub fn add(&mut self, key: TrustedKey) -> Result<(), TrustError> {
        key.check()?;
        if let Some(earlier) = self.find(key.key_id) {
            return Err(TrustError::KeyTwice { key_id: key.key_id, issuer: earlier.issuer.clone() });
        }
        if self.keys.len() == KEYS_MAX {
            return Err(TrustError::TooManyKeys(KEYS_MAX + 1));
        }
        self.keys.push(key);
        Ok(())
    }

    /// Takes a key out, if it is there.
    pub fn remove(&mut self, key_id: KeyId) -> Option<TrustedKey> {
        let position = self.keys.iter().position(|key| key.key_id == key_id)?;
        Some(self.keys.remove(position))
    }

    /// The key with this id.
    pub fn find(&self, key_id: KeyId) -> Option<&TrustedKey> {
        self.keys.iter().find(|key| key.key_id == key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;

    fn trusted(issuer: &str, globs: &[&str]) -> Result<TrustedKey, TrustError> {
        let globs: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        TrustedKey::new(issuer, PrivateKey::generate().unwrap().public_key(), &globs)
    }

    #[test]
    fn globs_match_whole_names() {
        for (glob, name, matches) in [
            ("fraud", "fraud", true),
            ("fraud", "fraud2", false),
            ("fraud*", "fraud", true),
            ("fraud*", "fraud-v2", true),
            ("fraud*", "my-fraud", false),
            ("*", "x", true),
            ("**", "x", true),
            ("*a*", "bab", true),
            ("*a*", "bbb", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*bc*c", "abc", false),
        ] {
            let model: ModelName = name.parse().unwrap();
            assert_eq!(glob.parse::<ModelGlob>().unwrap().matches(&model), matches, "{glob} {name}");
        }
        for bad in ["", "a.b", "a/*", "[a-z]", "?", &"x".repeat(GLOB_MAX + 1)] {
            assert!(bad.parse::<ModelGlob>().is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_overlap_where_one_text_fits_both() {
        for (left, right, overlap) in [
            ("fraud", "fraud", true),
            ("fraud", "fraud2", false),
            ("fraud-*", "*-eu", true),
            ("a*b", "*c", false),
            ("a*", "b*", false),
            ("*", "x", true),
            ("*", "*", true),
            ("a*a", "a", false),
            ("a*c*e", "ab*de", true),
        ] {
            let [left, right] = [left, right].map(|glob| glob.parse::<ModelGlob>().unwrap());
            assert_eq!((left.overlaps(&right), right.overlaps(&left)), (overlap, overlap), "{left} {right}");
        }
    }

    proptest::proptest! {
        #[test]
        fn globs_that_match_one_name_overlap(left in "[ab*]{1,5}", right in "[ab*]{1,5}", name in "[ab]{1,5}") {
            let [left, right] = [left, right].map(|glob| glob.parse::<ModelGlob>().unwrap());
            let name = name.parse().unwrap();
            proptest::prop_assert!(!(left.matches(&name) && right.matches(&name)) || left.overlaps(&right));
        }
    }

    #[test]
    fn a_store_survives_its_json_and_keeps_each_key_once() {
        let mut store = TrustStore::default();
        let key = trusted("risk-models", &["fraud*", "aml"]).unwrap();
        store.add(key.clone()).unwrap();
        store.add(trusted("risk-models", &["*"]).unwrap()).unwrap();
        assert!(matches!(store.add(key.clone()), Err(TrustError::KeyTwice { .. })));
        assert_eq!(TrustStore::from_json(&store.to_json().unwrap()).unwrap(), store);
        assert_eq!(store.remove(key.key_id), Some(key.clone()));
        assert!(store.find(key.key_id).is_none() && store.remove(key.key_id).is_none());
    }

    #[test]
    fn unsound_stores_and_keys_are_refused() {
        let mut store = TrustStore::default();
        store.add(trusted("a", &["*"]).unwrap()).unwrap();
        let other = trusted("b", &["*"]).unwrap().key_id.to_string();
        let id = store.keys()[0].key_id.to_string();
        let good = String::from_utf8(store.to_json().unwrap()).unwrap();
        let entry = good[good.find("[{").unwrap() + 1..good.rfind("],").unwrap()].to_owned();
        for (bad, expected) in [
            (good.replace(&id, &other), "stands beside it"),
            (good.replace(TRUST_SCHEMA, "turnout.trust/v2"), "schema"),
            (good.replace("\"models\":[\"*\"]", "\"models\":[]"), "0 globs"),
            (good.replace("\"issuer\":\"a\"", "\"issuer\":\"a b\""), "issuer `a b`"),
            (good.replace(&entry, &format!("{entry},{entry}")), "already trusted"),
            (good.replace("PUBLIC KEY", "PRIVATE KEY"), "canonical"),
            (good.replace("\"keys\"", "\"kees\""), "canonical"),
            (format!("{good} "), "canonical"),
        ] {
            assert_ne!(bad, good);
            let found = TrustStore::from_json(bad.as_bytes()).expect_err(&bad).to_string();
            assert!(found.contains(expected), "{bad}\n{found}");
        }
        assert!(
            trusted("", &["*"]).is_err() && trusted("a", &[]).is_err() && trusted("a", &["a b"]).is_err()
        );
    }
}
