//! Bundles that must not come in, sent by hand to the control socket: each is refused with a reason, and the store is
//! as it was before.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{LIMIT, Scene, names, play, until};

/// The smallest store there is.
const STORE_BYTES: u64 = 256 << 20;
/// More than a socket holds.
const REFUSED_BYTES: u64 = 32 << 20;
/// More than fits.
const WEIGHTS_BYTES: u64 = 240 << 20;

#[test]
fn a_bundle_that_is_not_as_signed_is_refused_and_the_store_is_unchanged() {
    play("bundles", |scene| {
        scene.open()?;
        scene.import(Source::of("digits", FIRST))?;
        let good = Parts::read(&scene.signed(Source::of("digits", "better"))?)?;
        let files = good.files.len();
        let mut truncated = good.clone();
        truncated.files.truncate(files / 2);
        let mut flipped = good.clone();
        flipped.files[files / 3] ^= 1;
        let mut longer = good.clone();
        longer.files.push(0);
        let mut huge = good.body();
        huge[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        let mut beyond = good.body();
        beyond[..4].copy_from_slice(&(8_u32 << 20).to_be_bytes());
        let whole = good.body().len();
        let cases = [
            ("a stream that ends early", Sent::all(truncated.body()), &[400, 422][..]),
            ("a stream that is cut off", Sent { declared: whole, body: truncated.body() }, &[500, 0]),
            ("a flipped bit in a file", Sent::all(flipped.body()), &[422]),
            ("one byte too many", Sent::all(longer.body()), &[422]),
            ("an envelope longer than any", Sent::all(huge), &[413]),
            ("an envelope longer than the stream", Sent::all(beyond), &[400]),
            ("no envelope", Sent::all(vec![0; 4]), &[413]),
            ("nothing", Sent::all(Vec::new()), &[400]),
            ("an envelope that is none", Sent::all(b"\0\0\0\x02{}".to_vec()), &[422]),
        ];
        for (what, sent, statuses) in cases {
            refused(scene, what, (&sent, statuses))?;
        }
        // The same bundle as it was signed comes in, twice with the same answer.
        for already_there in [false, true] {
            let answer = post(scene, &Sent::all(good.body()))?;
            let expected = format!("\"already_there\":{already_there}");
            ensure!(answer.status == 200 && answer.text.contains(&expected), "{answer:?}");
        }
        Ok(())
    });
}

#[test]
fn a_bundle_that_nobody_trusted_signed_is_refused_and_the_store_is_unchanged() {
    play("signatures", |scene| {
        scene.open()?;
        scene.import(Source::of("digits", FIRST))?;
        let (stranger, narrow) = (scene.bundles.join("stranger.pem"), scene.bundles.join("narrow.pem"));
        for key in [&stranger, &narrow] {
            scene.ctl.ok(&["key", "generate", models::text(key)?])?;
        }
        let public = narrow.with_extension("pub.pem");
        scene.ctl.ok(&[
            "trust",
            "add",
            models::text(&public)?,
            "--issuer",
            "others",
            "--models",
            "cancer*",
        ])?;

        let better = Source::of("digits", "better");
        let by = |label, key: &Path| {
            let source = Source { label, ..better };
            let folder = models::unsigned(&scene.ctl, &scene.bundles, source)?;
            models::sign(&scene.ctl, &folder, key)?;
            Parts::read(&folder)
        };
        let mut unsigned = by("unsigned", &scene.key)?;
        unsigned.envelope = without_signatures(&unsigned.envelope)?;
        let mut edited = by("edited", &scene.key)?;
        edited.envelope = without_first_payload_byte(&edited.envelope)?;
        // The label of the version that is in the store, with the content of another.
        fs::remove_dir_all(scene.bundles.join("digits-1.0.0"))?;
        let relabelled = by(FIRST, &scene.key)?;
        let cases = [
            ("no signature", unsigned, 422),
            ("a payload that was edited", edited, 422),
            ("an unknown key", by("unknown", &stranger)?, 422),
            ("a key for other models", by("narrow", &narrow)?, 422),
            ("a label with other content", relabelled, 409),
        ];
        for (what, parts, status) in cases {
            refused(scene, what, (&Sent::all(parts.body()), &[status]))?;
        }
        // However much the client still has to send, it gets to read why.
        let large = models::unsigned(&scene.ctl, &scene.bundles, Source { label: "large", ..better })?;
        File::create(large.join("weights.bin"))?.set_len(REFUSED_BYTES)?;
        models::sign(&scene.ctl, &large, &stranger)?;
        let small = scene.bundles.join("digits-unknown");
        for folder in [&large, &small].into_iter().cycle().take(60) {
            let answer = models::import(&scene.ctl, folder)?.expect(3)?;
            ensure!(answer.stderr.contains("untrusted"), "{}", answer.stderr);
        }
        Ok(())
    });
}

#[test]
fn an_import_that_does_not_fit_says_so_and_leaves_nothing() {
    play("full-store", |scene| {
        scene.instance.configure("store_image_bytes", &STORE_BYTES.to_string())?;
        scene.open()?;
        scene.import(Source::of("digits", FIRST))?;
        let large = models::unsigned(&scene.ctl, &scene.bundles, Source::of("digits", "better"))?;
        let weights = File::create(large.join("weights.bin"))?;
        weights.set_len(WEIGHTS_BYTES)?;
        models::sign(&scene.ctl, &large, &scene.key)?;
        let before = stored(scene)?;
        let answer = models::import(&scene.ctl, &large)?.expect(1)?;
        for word in ["free", "store grow"] {
            ensure!(answer.stderr.contains(word), "no `{word}` in: {}", answer.stderr);
        }
        unchanged(scene, &before)?;
        // What fits still comes in.
        scene.import(Source { model: "digits", version: "better", label: "small" }).map(drop)
    });
}

/// A bundle's parts as they go over the wire.
#[derive(Clone)]
struct Parts {
    envelope: Vec<u8>,
    files: Vec<u8>,
}

impl Parts {
    fn read(folder: &Path) -> Result<Self> {
        let envelope = fs::read(folder.join("turnout.dsse.json"))?;
        Ok(Self { envelope, files: fs::read(folder.join("model.onnx"))? })
    }

    fn body(&self) -> Vec<u8> {
        let length = u32::try_from(self.envelope.len()).expect("envelopes here are small");
        [&length.to_be_bytes()[..], &self.envelope, &self.files].concat()
    }
}

/// A request's body, and the length that its head declares.
struct Sent {
    declared: usize,
    body: Vec<u8>,
}

impl Sent {
    fn all(body: Vec<u8>) -> Self {
        Self { declared: body.len(), body }
    }
}

/// What came back; status 0 when the connection was closed without an answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
}

fn post(scene: &Scene, sent: &Sent) -> Result<Answer> {
    let mut socket = UnixStream::connect(scene.instance.socket())?;
    socket.set_read_timeout(Some(LIMIT))?;
    let head = format!(
        "POST /v1/bundles HTTP/1.1\r\nhost: turnout\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        sent.declared
    );
    // A daemon that refuses early need not read the rest.
    let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(&sent.body));
    if sent.body.len() < sent.declared {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Ok(Answer { status, text })
}

fn refused(scene: &Scene, what: &str, (sent, statuses): (&Sent, &[u16])) -> Result<()> {
    let before = stored(scene)?;
    let answer = post(scene, sent)?;
    ensure!(statuses.contains(&answer.status), "{what}: {answer:?}");
    ensure!(answer.status == 0 || answer.text.contains("\"message\""), "{what}: {answer:?}");
    unchanged(scene, &before).with_context(|| what.to_owned())
}

/// What the daemon says is stored, and what lies in the store.
type Stored = (turnout_protocol::control::Versions, Vec<String>, Vec<String>);

fn stored(scene: &Scene) -> Result<Stored> {
    let versions = scene.wait_for(scene.client().versions())?;
    Ok((versions, names(&store(scene).join("versions")), names(&store(scene).join("audit"))))
}

fn unchanged(scene: &Scene, before: &Stored) -> Result<()> {
    let incoming = store(scene).join("incoming");
    until("nothing is left in `incoming`", Duration::from_secs(5), || {
        Ok(names(&incoming).is_empty().then_some(()))
    })?;
    let after = stored(scene)?;
    ensure!(*before == after, "the store was {before:?}, is {after:?}");
    Ok(())
}

fn store(scene: &Scene) -> PathBuf {
    scene.instance.state().join("store")
}

fn without_signatures(envelope: &[u8]) -> Result<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(envelope)?;
    document["signatures"] = serde_json::json!([]);
    Ok(serde_json::to_vec(&document)?)
}

/// Another payload that is base64 all the same.
fn without_first_payload_byte(envelope: &[u8]) -> Result<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(envelope)?;
    let payload = document["payload"].as_str().context("an envelope has a payload")?;
    document["payload"] = payload[4..].into();
    Ok(serde_json::to_vec(&document)?)
}
