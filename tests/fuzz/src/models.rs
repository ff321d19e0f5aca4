//! A file of a version's folder, as a model and as any other: the policy ends with an answer.

use crate::fixture;
use std::io::Cursor;
use turnout_onnx::{Policy, Role, examine};

/// One file under both kinds of names; accepted is what the policy has nothing against as a model.
pub fn file(bytes: &[u8]) -> bool {
    let mut good = false;
    for (path, role) in
        [("model.onnx", Role::Beside), ("weights.bin", Role::Beside), ("model.onnx", Role::Model)]
    {
        good = examine((path, role), &mut Cursor::new(bytes), &Policy::default(), &|_| false).is_ok();
    }
    good
}

/// Two of the test models.
pub fn files() -> Vec<Vec<u8>> {
    ["digits/1.0.0", "cancer/1.0.0"]
        .iter()
        .map(|model| fixture(&format!("tests/models/{model}/model.onnx")))
        .collect()
}
