//! Models of a few bytes, built field by field: what is read of them, and what the content policy says.

use crate::content::{Policy, Role, examine};
use crate::format::Format;
use crate::header::{Tensor, header};
use proptest::prelude::*;
use std::io::Cursor;
use turnout_manifest::contract::Datatype;

fn message(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

fn value_info(name: &str, element: u8, dimensions: &[u8]) -> Vec<u8> {
    let shape: Vec<u8> = dimensions.iter().flat_map(|length| message(1, &[8, *length])).collect();
    let tensor = [vec![8, element], message(2, &shape)].concat();
    [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat()
}

fn model(graph: &[u8]) -> Vec<u8> {
    [vec![8, 9], message(7, graph)].concat()
}

fn sample() -> Vec<u8> {
    let weights = [message(8, b"w"), message(9, &[0; 300])].concat();
    model(
        &[
            message(5, &weights),
            message(11, &value_info("x", 1, &[0, 64])),
            message(11, &value_info("w", 1, &[3])),
            message(12, &value_info("label", 7, &[1])),
        ]
        .concat(),
    )
}

#[test]
fn inputs_outputs_and_shapes_are_read_and_weights_left_out() {
    let header = header(Cursor::new(sample())).unwrap();
    let tensor =
        |name: &str, datatype, shape: &[i64]| Tensor { name: name.into(), datatype, shape: shape.to_vec() };
    assert_eq!(header.inputs, [tensor("x", Datatype::Fp32, &[-1, 64])]);
    assert_eq!(header.outputs, [tensor("label", Datatype::Int64, &[1])]);
}

#[test]
fn what_is_no_onnx_says_why() {
    let sequence = [message(1, b"p"), message(2, &message(4, b""))].concat();
    for (bytes, why) in [
        (b"hello, world".to_vec(), "is not an ONNX model: "),
        (Vec::new(), "it states no IR version"),
        (vec![8, 9], "no graph with outputs"),
        (model(&message(12, &value_info("y", 10, &[1]))), "float16"),
        (model(&message(12, &sequence)), "is a sequence, not a tensor"),
        (model(&message(12, &value_info(&"n".repeat(513), 1, &[1]))), "bytes in a name"),
        (model(&message(12, &value_info("y", 1, &[1; 17]))), "dimensions"),
    ] {
        let error = header(Cursor::new(bytes)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = header(Cursor::new(bytes));
    }

    #[test]
    fn a_cut_file_is_refused(at in 0..sample().len()) {
        prop_assert!(header(Cursor::new(&sample()[..at])).is_err());
    }

    #[test]
    fn a_damaged_file_does_not_make_it_panic(at in 0..sample().len(), byte: u8) {
        let mut bytes = sample();
        bytes[at] = byte;
        let _ = header(Cursor::new(bytes));
    }
}

fn text(number: u8, value: &str) -> Vec<u8> {
    message(number, value.as_bytes())
}

fn node(operator: &str, domain: &str, attributes: &[u8]) -> Vec<u8> {
    message(1, &[text(4, operator), text(7, domain), attributes.to_vec()].concat())
}

fn operator_set(domain: &str) -> Vec<u8> {
    message(8, &[text(1, domain), vec![16, 13]].concat())
}

/// A field whose number needs two bytes.
fn wide(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = message(1, content);
    bytes[0] = (number << 3 | 2) | 0x80;
    bytes.insert(1, number >> 4);
    bytes
}

fn external(location: &str) -> Vec<u8> {
    let entry = message(13, &[text(1, "location"), text(2, location)].concat());
    [text(8, "w"), entry, vec![14 << 3, 1]].concat()
}

/// A model whose graph holds these fields beside an input and an output.
fn with(graph: &[u8]) -> Vec<u8> {
    let ends = [message(11, &value_info("x", 1, &[1])), message(12, &value_info("y", 1, &[1]))].concat();
    model(&[graph, &ends].concat())
}

fn judge(path: &str, bytes: &[u8], policy: &Policy) -> Result<(), String> {
    let beside = |file: &str| matches!(file, "weights.bin" | "sub/weights.bin");
    let role = if path == "served" { Role::Model } else { Role::Beside };
    examine((path, role), &mut Cursor::new(bytes), policy, &beside).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error} {cause}")
    })
}

#[test]
fn operators_of_unknown_domains_are_refused_wherever_they_stand() {
    let custom = node("Evil", "custom", &[]);
    let inner = |field: u8| node("If", "", &message(5, &message(field, &custom)));
    let mut deep = custom.clone();
    for _ in 0..3 {
        deep = node("Loop", "", &message(5, &message(6, &deep)));
    }
    let twice = message(1, &[text(4, "Add"), text(7, ""), text(7, "custom"), text(7, "")].concat());
    let trained = [with(&node("Add", "", &[])), wide(20, &message(2, &custom))].concat();
    let function = [
        with(&node("Add", "", &[])),
        wide(25, &[text(1, "F"), text(10, "own"), message(7, &custom[2..])].concat()),
    ];
    for bytes in [
        with(&custom),
        with(&inner(6)),
        with(&inner(11)),
        with(&deep),
        with(&twice),
        trained,
        function.concat(),
        [with(&node("Add", "", &[])), operator_set("custom")].concat(),
        with(&message(1, &text(7, "custom"))),
    ] {
        let told = judge("m.onnx", &bytes, &Policy::default()).unwrap_err();
        assert!(told.contains("`m.onnx` uses operators of the domain `custom`"), "{told}");
        let policy = Policy { domains: vec!["custom".to_owned()], formats: Vec::new() };
        assert_eq!(judge("m.onnx", &bytes, &policy), Ok(()));
    }
}

#[test]
fn standard_operators_and_functions_of_the_model_itself_are_admitted() {
    let own = wide(25, &[text(1, "F"), text(10, "own"), message(7, &node("Add", "", &[])[2..])].concat());
    for bytes in [
        with(&node("Add", "", &[])),
        [with(&node("TreeEnsemble", "ai.onnx.ml", &[])), operator_set("ai.onnx.ml"), operator_set("")]
            .concat(),
        [with(&node("F", "own", &[])), own.clone(), operator_set("own")].concat(),
    ] {
        assert_eq!(judge("m.onnx", &bytes, &Policy::default()), Ok(()));
    }
    let other = [with(&node("G", "own", &[])), own].concat();
    assert!(judge("m.onnx", &other, &Policy::default()).is_err(), "another function of that domain");
}

#[test]
fn weights_outside_the_folder_are_refused_wherever_they_stand() {
    let placed = |location: &str| {
        let tensor = external(location);
        [
            with(&message(5, &tensor)),
            with(&node("Constant", "", &message(5, &message(5, &tensor)))),
            with(&node("Constant", "", &message(5, &message(10, &tensor)))),
            with(&message(15, &message(1, &tensor))),
            with(&node("If", "", &message(5, &message(6, &message(5, &tensor))))),
        ]
    };
    for bytes in placed("weights.bin") {
        assert_eq!(judge("m.onnx", &bytes, &Policy::default()), Ok(()));
        assert_eq!(judge("sub/m.onnx", &bytes, &Policy::default()), Ok(()));
        assert!(
            judge("other/m.onnx", &bytes, &Policy::default()).unwrap_err().contains("no file of the folder")
        );
    }
    for location in
        ["/etc/shadow", "../weights.bin", "sub/../weights.bin", "./weights.bin", "", "a\\b", "missing.bin"]
    {
        for bytes in placed(location) {
            let told = judge("m.onnx", &bytes, &Policy::default()).unwrap_err();
            assert!(told.contains("has its weights in"), "{location}: {told}");
        }
    }
    let nowhere = with(&message(5, &[text(8, "w"), vec![14 << 3, 1]].concat()));
    assert!(judge("m.onnx", &nowhere, &Policy::default()).unwrap_err().contains("does not say where"));
}

#[test]
fn graphs_nested_too_deep_are_refused() {
    let mut deep = node("Add", "", &[]);
    for _ in 0..40 {
        deep = node("If", "", &message(5, &message(6, &deep)));
    }
    assert!(judge("m.onnx", &with(&deep), &Policy::default()).unwrap_err().contains("nested deeper"));
}

#[test]
fn formats_that_run_code_are_refused_by_name_and_by_content() {
    let numpy =
        |kind: &str| format!("\u{0}NUMPY\u{1}\u{0}v\u{0}{{'descr': '{kind}', 'shape': (3,)}}\n").into_bytes();
    let mut objects = numpy("|O");
    objects[0] = 0x93;
    let mut floats = numpy("<f4");
    floats[0] = 0x93;
    for (path, bytes, format) in [
        ("model.pt", &b""[..], Format::Pickle),
        ("a/MODEL.PKL", b"", Format::Pickle),
        ("m.joblib", b"x", Format::Pickle),
        ("weights.bin", b"\x80\x04\x95\0\0.", Format::Pickle),
        ("words.npy", &objects, Format::Pickle),
        (
            "weights.bin",
            b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.raw storage",
            Format::Pickle,
        ),
        ("weights.bin", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.raw", Format::Pickle),
        ("words", b"cos\nsystem\n(S'id'\ntR.", Format::Pickle),
        ("words", b"ccopy_reg\n_reconstructor\np0\n(c__main__\nA\n.", Format::Pickle),
        ("words", b"c__builtin__\neval\nq\0.", Format::Pickle),
        ("weights.bin", b"PK\x03\x04archive/data.pkl", Format::Archive),
        ("m.keras", b"", Format::Archive),
        ("m.h5", b"", Format::Hdf5),
        ("m.bin", b"\x89HDF\r\n\x1a\n", Format::Hdf5),
        ("run", b"#!/bin/sh", Format::Script),
        ("a/__init__.py", b"", Format::Script),
        ("lib.so.1", b"", Format::Native),
        ("lib", b"\x7fELF", Format::Native),
    ] {
        let told = judge(path, bytes, &Policy::default()).unwrap_err();
        assert!(told.contains(path) && told.contains(&format!("allow the format `{format}`")), "{told}");
        let policy = Policy { domains: Vec::new(), formats: vec![format] };
        assert_eq!(judge(path, bytes, &policy), Ok(()), "{path}");
        assert_eq!(format.to_string().parse(), Ok(format));
    }
    for (path, bytes) in [
        ("weights.bin", &b"\x80\x04 weights"[..]),
        ("empty", b""),
        (".py", b""),
        ("words.npy", &floats),
        ("vocabulary.txt", b"a"),
        ("vocabulary.txt", b"cat\ndog\nparrot\n."),
        ("vocabulary.txt", b"cat\ndog\n(none)\n"),
        ("turnout.yaml", b"model: x"),
        ("m.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
    ] {
        assert_eq!(judge(path, bytes, &Policy::default()), Ok(()), "{path}");
    }
    for path in ["m.onnx", "M.ONNX", "served"] {
        assert!(
            judge(path, b"text", &Policy::default()).unwrap_err().contains("is not an ONNX model"),
            "{path}"
        );
    }
    // The runtime reads a file of this name in its own format, whatever a reader of ONNX sees in it.
    assert!(judge("m.ort", &sample(), &Policy::default()).unwrap_err().contains("own format"));
}

proptest! {
    #[test]
    fn no_file_makes_the_policy_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), onnx: bool) {
        let _ = judge(if onnx { "m.onnx" } else { "m.bin" }, &bytes, &Policy::default());
    }
}
