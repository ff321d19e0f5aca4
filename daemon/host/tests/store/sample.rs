//! A version to import: its files, and the stream that brings them.

use std::io::Read;
use turnout_host::HostError;
use turnout_host::store::{ImportOutcome, Incoming, Store, StoredName};
use turnout_host::volume::Volume;
use turnout_manifest::Sha256;
use turnout_manifest::manifest::FileEntry;

pub const ENVELOPE: &[u8] = b"{\"payload\":\"signed\"}";

/// One version: its files and the stream that brings them.
pub struct Sample {
    pub name: StoredName,
    pub files: Vec<FileEntry>,
    pub stream: Vec<u8>,
}

impl Sample {
    pub fn new(seed: u8, files: &[(&str, usize)]) -> Self {
        let (mut entries, mut stream) = (Vec::new(), Vec::new());
        for (path, size) in files {
            let bytes: Vec<u8> = (0..*size).map(|at| (at % 251) as u8 ^ seed).collect();
            entries.push(FileEntry {
                path: (*path).to_owned(),
                size: *size as u64,
                sha256: Sha256::of(&bytes),
            });
            stream.extend(bytes);
        }
        let name = StoredName { model: "fraud".parse().unwrap(), digest: Sha256([seed; 32]) };
        Self { name, files: entries, stream }
    }

    pub fn import_from(&self, volume: &Volume, content: &mut dyn Read) -> Result<ImportOutcome, HostError> {
        let incoming = Incoming { name: self.name.clone(), files: &self.files, envelope: ENVELOPE };
        volume.import(&incoming, content)
    }

    pub fn import(&self, volume: &Volume) -> Result<ImportOutcome, HostError> {
        self.import_from(volume, &mut self.stream.as_slice())
    }
}
