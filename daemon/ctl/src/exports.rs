//! `turnoutctl audit export` and `audit check`: a snapshot as a file with the signed list of its content beside it, and
//! the comparison of what somebody received with that list. Checking needs no daemon.

use crate::args::ExportArguments;
use crate::error::{Exit, Failure, chain};
use crate::files;
use crate::render::{BAD, DIM, GOOD, STRONG, Screen, bytes, count, safe};
use crate::unfinished::{Existing, Unfinished};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use turnout_manifest::envelope::Envelope;
use turnout_manifest::key::PublicKey;
use turnout_manifest::{Sha256, canonical};
use turnout_protocol::archive::{DIGESTS_SCHEMA, DIGESTS_TYPE, Digests};
use turnout_protocol::client::Client;
use turnout_protocol::control::SCHEMA;

/// Largest list that is read, bytes.
const LIST_MAX: u64 = 64 << 20;
/// Deepest folder that is looked into.
const DEPTH_MAX: usize = 64;

/// Writes the stream and the list. Neither file is there under its name before it is whole.
pub async fn export(
    client: &Client,
    screen: &mut Screen,
    arguments: ExportArguments,
) -> Result<Exit, Failure> {
    let ExportArguments { snapshot, file, force } = arguments;
    let there = if force { Existing::Replace } else { Existing::Keep };
    let file = file.unwrap_or_else(|| PathBuf::from(format!("{snapshot}.btrfs")));
    let list = with_suffix(&file, ".digests.json");
    there.allows(&file)?;
    there.allows(&list)?;
    let signed = client.snapshot_digests(&snapshot).await?;
    let mut stream = client.snapshot_stream(&snapshot).await?;
    let mut out = Unfinished::create(&file)?;
    let mut size = 0;
    while let Some(piece) = stream.next().await? {
        out.write(&piece)?;
        size += piece.len() as u64;
    }
    out.keep(there)?;
    let mut out = Unfinished::create(&list)?;
    out.write(signed.envelope.as_bytes())?;
    out.keep(there)?;
    let text = format!(
        "{GOOD}exported{GOOD:#} {STRONG}{}{STRONG:#}\nstream   {} ({})\ndigests  {}, signed by this host\n\
         {DIM}hint:{DIM:#} elsewhere: `btrfs receive -f {} DIR`, then `turnoutctl audit check DIR/{} \
         --digests {} --key HOST.pem`; the key is printed by `turnoutctl audit key`\n",
        safe(&snapshot),
        file.display(),
        bytes(size),
        list.display(),
        file.display(),
        safe(&snapshot),
        list.display(),
    );
    let value = json!({
        "schema": SCHEMA, "snapshot": snapshot, "stream": file, "bytes": size, "digests": list,
    });
    screen.show(&value, &text)?;
    Ok(Exit::Done)
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Compares every file below a folder with the list, and the list's signature with the key.
pub fn check(screen: &mut Screen, dir: &Path, (list, key): (&Path, &Path)) -> Result<Exit, Failure> {
    let digests = read_list(list, key)?;
    let differences = differences(dir, &digests)?;
    let value = json!({
        "schema": SCHEMA, "snapshot": digests.snapshot, "files": digests.files.len(), "differences": differences,
    });
    if differences.is_empty() {
        let files = count(digests.files.len() as u64, "file");
        let text = format!(
            "{GOOD}same{GOOD:#}: {files} are as the host signed them for {}\n",
            safe(&digests.snapshot)
        );
        screen.show(&value, &text)?;
        return Ok(Exit::Done);
    }
    let mut text =
        format!("{BAD}different{BAD:#} from what the host signed for {}\n", safe(&digests.snapshot));
    for line in &differences {
        text += &format!("  - {}\n", safe(line));
    }
    screen.show(&value, &text)?;
    Ok(Exit::Refused)
}

fn read_list(list: &Path, key: &Path) -> Result<Digests, Failure> {
    let refused = |what: String| Failure::new(Exit::Refused, format!("`{}`: {what}", list.display()));
    let text = files::read_all(File::open(list), list, LIST_MAX)?;
    let key = PublicKey::from_pem(&files::read_text(key)?)
        .map_err(|error| Failure::new(Exit::Refused, format!("`{}`: {}", key.display(), chain(&error))))?;
    let envelope = Envelope::parse(&text).map_err(|error| refused(chain(&error)))?;
    let signed = envelope.signed_bytes();
    let holds = |signature: &turnout_manifest::envelope::EnvelopeSignature| {
        signature.key_id == key.id() && key.verifies(&signed, &signature.signature)
    };
    if envelope.payload_type() != DIGESTS_TYPE || !envelope.signatures().iter().any(holds) {
        return Err(refused(format!("it is not a list of files signed by {}", key.id()))
            .hint("compare the key with what `turnoutctl audit key` prints on the host"));
    }
    let digests: Digests =
        canonical::from_canonical(envelope.payload()).map_err(|error| refused(chain(&error)))?;
    if digests.schema != DIGESTS_SCHEMA {
        return Err(refused(format!("its schema is `{}`, not `{DIGESTS_SCHEMA}`", safe(&digests.schema))));
    }
    Ok(digests)
}

/// One line for each file that is missing, too many, or other than listed.
fn differences(dir: &Path, digests: &Digests) -> Result<Vec<String>, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        openat(CWD, dir, flags, Mode::empty()).map_err(|error| Failure::file("open", dir, &error.into()))?;
    let mut there = BTreeMap::new();
    walk(dir, "", (&mut there, 0))?;
    let mut differences = Vec::new();
    for entry in &digests.files {
        if there.remove(&entry.path).is_none() {
            differences.push(format!("`{}` is missing", entry.path));
        } else if let Some(why) = differs(&root, &entry.path, (entry.size, entry.sha256)) {
            differences.push(format!("`{}` {why}", entry.path));
        }
    }
    differences.extend(there.into_keys().map(|path| format!("`{path}` is not in the list")));
    Ok(differences)
}

fn differs(root: &OwnedFd, path: &str, (size, digest): (u64, Sha256)) -> Option<String> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = openat2(root, path, flags, Mode::empty(), inside);
    let file = match opened {
        Ok(file) => File::from(file),
        Err(error) => return Some(format!("cannot be opened: {error}")),
    };
    // Whoever packed the folder chose what lies there.
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => return Some("is no plain file".to_owned()),
        Ok(metadata) if metadata.len() != size => {
            return Some(format!("is {} bytes; signed was {size} bytes, {digest}", metadata.len()));
        }
        Ok(_) => {}
        Err(error) => return Some(format!("cannot be read: {error}")),
    }
    match Sha256::of_reader(&mut file.take(size + 1)) {
        Ok((found, length)) if found == digest && length == size => None,
        Ok((found, length)) => Some(format!("is {length} bytes, {found}; signed was {size} bytes, {digest}")),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

fn walk(dir: &Path, below: &str, (there, depth): (&mut BTreeMap<String, ()>, usize)) -> Result<(), Failure> {
    let folder = dir.join(below);
    let failed = |error: &std::io::Error| Failure::file("read", &folder, error);
    if depth > DEPTH_MAX {
        return Err(Failure::new(Exit::Refused, format!("`{}` is nested too deeply", folder.display())));
    }
    for entry in fs::read_dir(&folder).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type().map_err(|error| failed(&error))?.is_dir() {
            walk(dir, &path, (there, depth + 1))?;
        } else {
            there.insert(path, ());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, makedev, mknodat};

    fn root_of(dir: &Path) -> OwnedFd {
        openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_node_in_place_of_a_listed_file_differs_and_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let (root, empty) = (root_of(place.path()), (0, Sha256::of(b"")));
        fs::write(place.path().join("file"), "").unwrap();
        assert_eq!(differs(&root, "file", empty), None);
        mknodat(&root, "pipe", FileType::Fifo, Mode::RUSR, 0).unwrap();
        mknodat(&root, "null", FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
        mknodat(&root, "zero", FileType::CharacterDevice, Mode::RUSR, makedev(1, 5)).unwrap();
        for node in ["pipe", "null", "zero"] {
            assert_eq!(differs(&root, node, empty).as_deref(), Some("is no plain file"), "{node}");
        }
    }

    #[test]
    fn a_file_of_another_size_is_not_read_and_one_of_the_same_is() {
        let place = tempfile::tempdir().unwrap();
        let root = root_of(place.path());
        let sparse = File::create(place.path().join("sparse")).unwrap();
        sparse.set_len(10 << 40).unwrap();
        let signed = (3, Sha256::of(b"one"));
        let said = differs(&root, "sparse", signed).unwrap();
        assert!(said.starts_with("is 10995116277760 bytes; signed was 3 bytes"), "{said}");
        fs::write(place.path().join("same"), "one").unwrap();
        fs::write(place.path().join("other"), "two").unwrap();
        assert_eq!(differs(&root, "same", signed), None);
        assert!(differs(&root, "other", signed).unwrap().contains("signed was"));
        assert!(differs(&root, "../same", signed).unwrap().starts_with("cannot be opened"));
    }

    #[test]
    fn a_list_without_end_is_read_to_its_limit() {
        let key = Path::new("none.pem");
        let refused = read_list(Path::new("/dev/zero"), key).map(drop).unwrap_err();
        assert!(refused.message().contains("longer than"), "{}", refused.message());
    }
}
