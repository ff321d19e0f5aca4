//! A key, and versions signed with it, in a store: what every stage begins with.

use crate::stage::model;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use turnout_host::fake::FakeHost;
use turnout_host::store::{Incoming, Store, StoredName};
use turnout_manifest::envelope::{Envelope, MANIFEST_TYPE};
use turnout_manifest::key::PrivateKey;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::profile::{Class, Requirement};
use turnout_manifest::trust::TrustedKey;
use turnout_manifest::{Description, ModelName, Sha256, TrustStore};

/// The store, and what it was filled from.
pub struct Shelf {
    pub trust: Vec<u8>,
    pub host: FakeHost,
    digests: BTreeMap<(ModelName, &'static str), Sha256>,
    bundles: BTreeMap<(ModelName, &'static str), Vec<u8>>,
}

/// The model that sets have besides [`model`].
pub fn second() -> ModelName {
    "cancer".parse().unwrap()
}

pub static SHELF: LazyLock<Shelf> = LazyLock::new(|| {
    let key = PrivateKey::generate().unwrap();
    let mut trust = TrustStore::default();
    trust.add(TrustedKey::new("ci", key.public_key(), &["*".to_owned()]).unwrap()).unwrap();
    let mut shelf = Shelf {
        trust: trust.to_json().unwrap(),
        host: FakeHost::default(),
        digests: BTreeMap::new(),
        bundles: BTreeMap::new(),
    };
    for version in ["1", "2", "3", "demanding", "guaranteed", "limited"] {
        shelf.add(&key, model(), version);
    }
    for version in ["1", "2"] {
        shelf.add(&key, second(), version);
    }
    shelf
});

impl Shelf {
    fn add(&mut self, key: &PrivateKey, model: ModelName, version: &'static str) {
        let content = format!("weights of version {version}");
        let file = FileEntry {
            path: "model.onnx".into(),
            size: content.len() as u64,
            sha256: Sha256::of(content.as_bytes()),
        };
        let mut description =
            Description::template(model.clone(), version.parse().unwrap(), "model.onnx".to_owned());
        match version {
            "demanding" => description.runtime.require = vec![Requirement::Landlock(4), Requirement::Memory],
            "guaranteed" => description.runtime.class = Class::Guaranteed,
            "limited" => {
                description.runtime.cpu_limit = Some("1.5".parse().unwrap());
                description.runtime.devices = vec!["gpu0".parse().unwrap()];
                description.runtime.require = vec![Requirement::Devices, Requirement::Cpu];
            }
            _ => {}
        }
        let manifest = description.into_manifest(vec![file]).unwrap();
        let payload = manifest.to_canonical().unwrap();
        let digest = Sha256::of(&payload);
        let envelope = Envelope::sign(MANIFEST_TYPE, payload, key).unwrap().to_json().unwrap();
        let name = StoredName { model: model.clone(), digest };
        let incoming = Incoming { name, files: &manifest.files, envelope: &envelope };
        self.host.import(&incoming, &mut content.as_bytes()).unwrap();
        let length = u32::try_from(envelope.len()).unwrap().to_be_bytes();
        self.bundles.insert((model.clone(), version), [&length[..], &envelope, content.as_bytes()].concat());
        self.digests.insert((model, version), digest);
    }

    /// The name of a version in the store.
    pub fn stored(&self, model: &ModelName, version: &str) -> StoredName {
        let found = self.digests.iter().find(|((of, label), _)| of == model && *label == version);
        StoredName { model: model.clone(), digest: *found.unwrap().1 }
    }

    /// The bytes of a bundle, as a client sends it.
    pub fn bundle(&self, model: &ModelName, version: &str) -> Vec<u8> {
        let found = self.bundles.iter().find(|((of, label), _)| of == model && *label == version);
        found.unwrap().1.clone()
    }
}

/// That of the first model.
pub fn bundle(version: &str) -> Vec<u8> {
    SHELF.bundle(&model(), version)
}

pub fn stored(version: &str) -> StoredName {
    SHELF.stored(&model(), version)
}
