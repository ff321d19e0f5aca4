//! A signed trust root from the command line to the worker: two people begin it, two sign a version, an order releases it,
//! a denied version stays out, and everything else is refused with its remedy.

use anyhow::{Result, ensure};
use std::path::PathBuf;
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{Scene, play};

const AT_ONCE: [&str; 4] = ["release", "start", "digits@1.0.0", "--wait"];

/// A file of this scene.
fn file(scene: &Scene, name: &str) -> Result<String> {
    models::text(&scene.instance.folder().join(name)).map(str::to_owned)
}

/// Makes a key for somebody; gives its private and its public file.
fn key(scene: &Scene, name: &str) -> Result<(String, String)> {
    let private = file(scene, &format!("{name}.pem"))?;
    scene.ctl.ok(&["key", "generate", &private])?;
    Ok((private, file(scene, &format!("{name}.pub.pem"))?))
}

/// The people of this scene.
struct People {
    alice: (String, String),
    bob: (String, String),
    builder: (String, String),
    approver: (String, String),
}

impl People {
    fn of(scene: &Scene) -> Result<Self> {
        let [alice, bob, builder, approver] =
            ["alice", "bob", "builder", "approver"].map(|name| key(scene, name));
        Ok(Self { alice: alice?, bob: bob?, builder: builder?, approver: approver? })
    }

    fn both_sign(&self, scene: &Scene, draft: &str) -> Result<()> {
        for (private, _) in [&self.alice, &self.bob] {
            scene.ctl.ok(&["trust", "sign", draft, "--key", private])?;
        }
        Ok(())
    }

    /// The draft of the first root: alice and bob change it, builder and approver sign versions, alice orders.
    fn first_root(&self, scene: &Scene) -> Result<String> {
        let draft = file(scene, "root-1.json")?;
        let (alice, bob) = (&self.alice.1, &self.bob.1);
        let begin =
            ["trust", "init", "--draft", &draft, "--root-key", alice, "--root-key", bob, "--threshold", "2"];
        scene.ctl.ok(&begin)?;
        let issuer = ["--issuer", "risk-models", "--models", "digits", "--draft", &draft];
        scene.ctl.ok(&[&["trust", "add", &self.builder.1, "--role", "builder"], &issuer[..]].concat())?;
        let roles =
            ["--role", "approver", "--threshold", "2", "--require", "builder", "--require", "approver"];
        scene.ctl.ok(&[&["trust", "add", &self.approver.1], &roles[..], &issuer].concat())?;
        scene.ctl.ok(&["trust", "orders", "--key", alice, "--require", "prod", "--draft", &draft])?;
        Ok(draft)
    }
}

#[test]
fn a_signed_root_decides_from_the_command_line_to_the_worker() {
    play("trust", |scene| {
        scene.open()?;
        let people = People::of(scene)?;
        let draft = people.first_root(scene)?;
        scene.ctl.ok(&["trust", "sign", &draft, "--key", &people.alice.0])?;
        let alone = scene.ctl.run(&["trust", "apply", &draft])?.expect(3)?;
        ensure!(
            alone.stderr.contains("1 of 2 needed") && alone.stderr.contains("trust sign"),
            "{}",
            alone.stderr
        );
        scene.ctl.ok(&["trust", "sign", &draft, "--key", &people.bob.0])?;
        scene.ctl.ok(&["trust", "apply", &draft])?;
        let short_form =
            scene.ctl.run(&["trust", "add", &people.bob.1, "--issuer", "bob", "--models", "*"])?.expect(1)?;
        ensure!(short_form.stderr.contains("--draft FILE"), "{}", short_form.stderr);

        let bundle = two_signatures(scene, &people)?;
        by_order(scene, &people, &bundle)?;
        denied(scene, &people)?;
        let history = scene.ctl.ok(&["trust", "history"])?;
        ensure!(history.value["roots"].as_array().is_some_and(|roots| roots.len() == 2), "{history:?}");
        let copy = scene.instance.folder().join("state/trust-root");
        scene.ctl.ok(&["trust", "history", models::text(&copy)?])?;
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

/// A version needs builder and approver; the second adds to what the first has signed.
fn two_signatures(scene: &Scene, people: &People) -> Result<PathBuf> {
    let bundle = models::unsigned(&scene.ctl, &scene.bundles, Source::of("digits", FIRST))?;
    let folder = models::text(&bundle)?;
    scene.ctl.ok(&["manifest", "sign", folder, "--key", &people.builder.0])?;
    let verdict = scene.ctl.run(&["manifest", "verify", folder])?.expect(3)?;
    ensure!(verdict.text("/verdict")? == "untrusted", "{verdict:?}");
    let refused = models::import(&scene.ctl, &bundle)?.expect(3)?;
    ensure!(refused.stderr.contains("threshold: risk-models: 1 of 2 needed"), "{}", refused.stderr);
    scene.ctl.ok(&["manifest", "sign", folder, "--append", "--key", &people.approver.0])?;
    let verdict = scene.ctl.ok(&["manifest", "verify", folder])?;
    ensure!(verdict.text("/verdict")? == "valid", "{verdict:?}");
    models::import(&scene.ctl, &bundle)?.expect(0)?;
    Ok(bundle)
}

/// On `prod` nothing is released without an order, and an order that was used is not used for anything else.
fn by_order(scene: &Scene, people: &People, bundle: &std::path::Path) -> Result<()> {
    let without = scene.ctl.run(&AT_ONCE)?.expect(3)?;
    ensure!(without.stderr.contains("--order FILE"), "{}", without.stderr);
    let host = scene.ctl.ok(&["trust", "show"])?.text("/host")?.to_owned();
    let order = file(scene, "order.json")?;
    let folder = models::text(bundle)?;
    let new = ["order", "new", "digits@1.0.0", "--dir", folder, "--host", &host, "--draft", &order];
    scene.ctl.ok(&[&new[..], &["--epoch", "1", "--counter", "7"]].concat())?;
    scene.ctl.ok(&["order", "sign", &order, "--key", &people.alice.0])?;
    scene.ctl.ok(&[&AT_ONCE[..], &["--order", &order, "--timeout", "30s"]].concat())?;
    let release = scene.ended()?;
    ensure!(release.state == ReleaseState::Promoted, "{release:?}");
    let shown = scene.ctl.ok(&["trust", "show"])?;
    ensure!(shown.value["orders"][0]["counter"] == 7, "{shown:?}");
    Ok(())
}

/// The next root denies the version that is live: it goes on serving, and is not let in again.
fn denied(scene: &mut Scene, people: &People) -> Result<()> {
    let digest = scene.ctl.ok(&["model", "list"])?.text("/versions/0/digest")?.to_owned();
    let draft = file(scene, "root-2.json")?;
    scene.ctl.ok(&["trust", "deny", &digest, "--reason", "wrong data", "--draft", &draft])?;
    people.both_sign(scene, &draft)?;
    let applied = scene.ctl.ok(&["trust", "apply", &draft])?;
    ensure!(applied.text("/shut_out/0")?.contains("deny-list"), "{applied:?}");
    let traffic = scene.traffic()?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    let tally = scene.finish_whole(traffic)?;
    ensure!(tally.sent > 0, "what is live goes on serving");
    // The daemon that comes after a restart knows root, orders and denial.
    ensure!(scene.instance.stop()?.success(), "the daemon did not stop well");
    scene.instance.start()?;
    let shown = scene.ctl.ok(&["trust", "show"])?;
    ensure!(shown.value["root"]["document"]["version"] == 2, "{shown:?}");
    ensure!(shown.value["orders"][0]["counter"] == 7, "{shown:?}");
    Ok(())
}
