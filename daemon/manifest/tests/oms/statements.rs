//! Statements that are rightly signed and say what must not be believed.

use crate::making::{
    KEY, bundle_over, compared, contents, judge, judge_names, judge_statement, known, outcome, plain,
    resource, sharded, statement,
};
use serde_json::{Value, json};
use turnout_manifest::Sha256;
use turnout_manifest::oms::verify;
use turnout_manifest::trust::Verdict;

#[test]
fn a_signed_statement_of_another_form_is_rejected() {
    let good = || statement(json!([resource("a")]), plain());
    assert_eq!(judge_statement(&good()).0, Verdict::Valid);
    let with = |path: &str, value: Value| {
        let mut bent = good();
        *bent.pointer_mut(path).unwrap() = value;
        bent
    };
    let digest = Sha256::of(b"x").hex();
    let subject = good()["subject"][0].clone();
    let serialization = |name: &str, value: Value| {
        let mut bent = plain();
        bent[name] = value;
        statement(json!([resource("a")]), bent)
    };
    let algorithm = |algorithm: &str, digest: &str| {
        statement(json!([{"name": "a", "algorithm": algorithm, "digest": digest}]), plain())
    };
    for (bent, told) in [
        (with("/_type", json!("https://in-toto.io/Statement/v0.1")), "_type"),
        (with("/predicateType", json!("https://slsa.dev/provenance/v1")), "predicateType"),
        (with("/predicateType", json!("https://model_signing/Digests/v0.1")), "predicateType"),
        (with("/subject", json!([])), "subject"),
        (with("/subject", json!([subject, subject])), "subject"),
        (with("/subject/0/name", json!("")), "subject"),
        (with("/subject/0/name", json!("a\0b")), "subject"),
        (with("/subject/0/name", json!("a\u{1b}[2J")), "subject"),
        (with("/subject/0/digest", json!({"sha256": digest})), "subject's digest"),
        (with("/subject/0/digest", json!({"sha256": digest, "sha512": ""})), "sha512"),
        (with("/predicate/resources", json!([])), "covers no file"),
        (serialization("method", json!("tree")), "unsupported serialization method"),
        (serialization("hash_type", json!("blake2b")), "unsupported hash"),
        (serialization("allow_symlinks", json!(true)), "allow_symlinks"),
        (serialization("allow_symlinks", json!("false")), "allow_symlinks"),
        (serialization("follow_mounts", json!(false)), "follow_mounts"),
        (serialization("shard_size", json!(10)), "shard_size"),
        (algorithm("sha256", &digest.to_uppercase()), "digest"),
        (algorithm("sha256", &digest[..62]), "digest"),
        (algorithm("sha256", &digest.replace(&digest[..1], "g")), "digest"),
        (algorithm("md5", &digest[..32]), "algorithm"),
        (algorithm("blake3", &digest), "algorithm"),
        (json!([good()]), "no object"),
    ] {
        let (verdict, found) = judge_statement(&bent);
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
    for (payload, told) in [
        (good().to_string().replacen('{', "{\"_type\":\"x\",", 1), "twice"),
        (good().to_string().replacen("\"predicate\":{", "\"predicate\":{\"x\":1e999,", 1), "whole"),
        (good().to_string().replacen("\"predicate\":{", "\"predicate\":{\"x\":9007199254740993,", 1), "2^53"),
        (good().to_string() + "{}", "after the document"),
    ] {
        let (verdict, found) = outcome(&judge(bundle_over(payload.as_bytes()).to_string().as_bytes()));
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
    let mut more = good();
    more["predicate"]["resources"][0]["annotations"] = json!({"size": 1});
    assert_eq!(judge_statement(&more).0, Verdict::Valid, "descriptors may say more");
}

#[test]
fn names_that_could_leave_or_hide_are_rejected() {
    for bad in [
        "",
        "..",
        "../a",
        "a/../b",
        "/a",
        "./a",
        "a//b",
        "a/",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\u{1b}[2Jb",
        "a\u{202e}b",
        &"x".repeat(256),
        &"x/".repeat(3000),
    ] {
        let (verdict, told) = judge_names(&[bad]);
        assert!(verdict == Verdict::Rejected && told.starts_with("statement: name"), "{bad:?} {told}");
    }
    for (pair, told) in [
        (["a", "a"], "listed twice"),
        (["a", "a/b"], "a file and a folder"),
        (["model.bin", "Model.bin"], "case or Unicode"),
        (["mod\u{e8}le", "mode\u{300}le"], "case or Unicode"),
        (["\u{212b}", "\u{e5}"], "case or Unicode"),
    ] {
        let (verdict, found) = judge_names(&pair);
        assert!(verdict == Verdict::Rejected && found.contains(told), "{pair:?}: {verdict} {found}");
    }
    assert_eq!(judge_names(&["a.txt", "a/b.txt", "b:c", "modèle-模型.txt", ". a"]).0, Verdict::Valid);
}

#[test]
fn only_the_git_names_and_what_was_allowed_may_be_left_out() {
    let judge_ignored = |paths: Value, allowed: &[&str]| {
        let mut serialization = plain();
        serialization["ignore_paths"] = paths;
        let bundle = bundle_over(statement(json!([resource("a/b")]), serialization).to_string().as_bytes());
        let allowed = allowed.iter().map(|path| (*path).to_owned()).collect();
        outcome(&verify(bundle.to_string().as_bytes(), &known(&[&KEY]), &allowed))
    };
    assert_eq!(
        judge_ignored(json!([".git", ".gitignore", ".github", ".gitattributes"]), &[]).0,
        Verdict::Valid
    );
    assert_eq!(judge_ignored(json!(["m.sig"]), &["m.sig"]).0, Verdict::Valid);
    for (paths, allowed, told) in [
        (json!(["m.sig"]), &[][..], "leaves out `m.sig`"),
        (json!(["."]), &["."], "component"),
        (json!([""]), &[""], "is empty"),
        (json!(["/etc"]), &["/etc"], "absolute"),
        (json!(["../.."]), &["../.."], "component"),
        (json!(["*.bin"]), &["*.bin"], "pattern"),
        (json!(["sub/.git"]), &[], "leaves out"),
        (json!(["a"]), &["a"], "left out by `ignore_paths`"),
        (json!(["a/b"]), &["a/b"], "left out by `ignore_paths`"),
        (json!([".git", ".git"]), &[], "twice"),
        (json!([1]), &[], "no text"),
    ] {
        let (verdict, found) = judge_ignored(paths, allowed);
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
}

#[test]
fn shards_must_make_up_their_files() {
    let whole = [("a.txt", 0, 5), ("a/b.bin", 0, 1000), ("a/b.bin", 1000, 2000), ("a/b.bin", 2000, 2500)];
    for size in [json!(1000), json!(1000.0)] {
        let bundle = bundle_over(sharded(&whole, size).to_string().as_bytes()).to_string();
        let verification = compared(judge(bundle.as_bytes()), &contents());
        assert_eq!(outcome(&verification), (Verdict::Valid, String::new()));
        assert!(
            verification
                .checks
                .iter()
                .any(|check| check.detail.contains("not covered by shards: `empty.bin`"))
        );
    }
    let mut changed = contents();
    changed.insert("empty.py", b"");
    let bundle = bundle_over(sharded(&whole, json!(1000)).to_string().as_bytes()).to_string();
    assert_eq!(compared(judge(bundle.as_bytes()), &changed).verdict, Verdict::Rejected, "an empty module");
    let last_missing = bundle_over(sharded(&whole[..3], json!(1000)).to_string().as_bytes()).to_string();
    let (verdict, told) = outcome(&compared(judge(last_missing.as_bytes()), &contents()));
    assert!(verdict == Verdict::Rejected && told.contains("goes on after"), "{told}");

    for (shards, size, told) in [
        (&[("a/b.bin", 0, 1000), ("a/b.bin", 1001, 2000)][..], json!(1000), "begins at 1001"),
        (&[("a/b.bin", 0, 1000), ("a/b.bin", 999, 2000)], json!(1000), "begins at 999"),
        (&[("a/b.bin", 1000, 2000)], json!(1000), "begins at 1000"),
        (&[("a/b.bin", 0, 900), ("a/b.bin", 900, 1900)], json!(1000), "does not fit"),
        (&[("a/b.bin", 0, 1001)], json!(1000), "does not fit"),
        (&[("a/b.bin", 0, 0)], json!(1000), "does not fit"),
        (&[("a.txt", 0, 5)], json!(0), "shard_size"),
        (&[("a.txt", 0, 5)], json!(-1), "shard_size"),
        (&[("a.txt", 0, 5)], json!("5"), "shard_size"),
        (&[("a.txt", 0, 5)], json!(5.5), "whole"),
        (&[("a.txt", 0, 5)], Value::Null, "shard_size"),
    ] {
        let (verdict, found) = judge_statement(&sharded(shards, size));
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
    for name in [
        "a:0",
        "a:-1:5",
        "a:00:5",
        "a:0:05",
        "a:0:18446744073709551616",
        "a:5:0",
        "a:0x0:5",
        "a::5",
        "a:0:+5",
    ] {
        let mut bent = sharded(&[("a.txt", 0, 5)], json!(1000));
        bent["predicate"]["resources"][0]["name"] = json!(name);
        assert_eq!(judge_statement(&bent).0, Verdict::Rejected, "{name}");
    }
    let mut odd = sharded(&[("a.txt", 0, 5)], json!(1000));
    odd["predicate"]["resources"][0]["algorithm"] = json!("sha256-sharded-999");
    assert_eq!(judge_statement(&odd).0, Verdict::Rejected, "another size in the algorithm's name");
}
