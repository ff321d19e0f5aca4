//! Arbitrary bytes never panic the parser; what is written can be read back, in JSON and as binary tensors.

use proptest::prelude::*;
use turnout_inference::response::{self, Form};
use turnout_inference::tensor::element_count;
use turnout_inference::{Elements, InferRequest, OutputTensor, ResponseHead};

fn elements(count: usize) -> impl Strategy<Value = Elements> {
    use proptest::collection::vec;
    prop_oneof![
        vec(any::<bool>(), count).prop_map(Elements::Bool),
        vec(any::<u8>(), count).prop_map(Elements::Uint8),
        vec(any::<u64>(), count).prop_map(Elements::Uint64),
        vec(any::<i16>(), count).prop_map(Elements::Int16),
        vec(any::<i64>(), count).prop_map(Elements::Int64),
        vec(proptest::num::f32::NORMAL | proptest::num::f32::SUBNORMAL | proptest::num::f32::ZERO, count)
            .prop_map(Elements::Fp32),
        vec(proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO, count)
            .prop_map(Elements::Fp64),
    ]
}

fn tensor() -> impl Strategy<Value = (String, Vec<i64>, Elements)> {
    proptest::collection::vec(0_i64..5, 0..4).prop_flat_map(|shape| {
        let count = element_count(&shape).expect("four dimensions below five multiply");
        (".{1,8}", Just(shape), elements(count))
    })
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![Just(Form::Json), Just(Form::Binary)]
}

/// An answer's `outputs` have the form of a request's `inputs`: renaming the member makes one of the other.
fn as_request(answer: &[u8], json_length: Option<usize>) -> (Vec<u8>, Option<usize>) {
    let (json, tail) = answer.split_at(json_length.unwrap_or(answer.len()));
    let json = String::from_utf8(json.to_vec()).expect("JSON is text");
    let json = json.replacen(r#","outputs":["#, r#","inputs":["#, 1).into_bytes();
    let length = json.len();
    ([&json, tail].concat(), json_length.map(|_| length))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in proptest::option::of(0_usize..220)) {
        let _ = InferRequest::parse(&bytes, length);
    }

    #[test]
    fn arbitrary_data_never_panics(
        data in r#"[\[\]\{\}, 0-9eE+\-."a-zé]{0,60}"#,
        datatype in prop_oneof![Just("FP32"), Just("INT8"), Just("BOOL"), Just("FP16")],
        shape in proptest::collection::vec(any::<i64>(), 0..4),
    ) {
        let json = format!(r#"{{"inputs":[{{"name":"x","shape":{shape:?},"datatype":"{datatype}","data":{data}}}]}}"#);
        let _ = InferRequest::parse(json.as_bytes(), None);
    }

    #[test]
    fn what_is_written_reads_back_the_same(first in tensor(), second in tensor(), forms in (form(), form())) {
        prop_assume!(first.0 != second.0);
        let output = |(name, shape, elements): &'_ (String, Vec<i64>, Elements)| (name.clone(), shape.clone(), elements.clone());
        let (first, second) = (output(&first), output(&second));
        let outputs = [
            (OutputTensor { name: &first.0, shape: &first.1, elements: first.2.borrowed() }, forms.0),
            (OutputTensor { name: &second.0, shape: &second.1, elements: second.2.borrowed() }, forms.1),
        ];
        let mut answer = Vec::new();
        let head = ResponseHead { model_name: "m", model_version: "1", id: Some("a \"quoted\" id") };
        let json_length = response::write(head, &outputs, &mut answer).unwrap();
        let (body, json_length) = as_request(&answer, json_length);
        let read = InferRequest::parse(&body, json_length).unwrap();
        prop_assert_eq!(read.id.as_deref(), Some("a \"quoted\" id"));
        for (input, (name, shape, elements)) in read.inputs.iter().zip([first, second]) {
            prop_assert_eq!(&input.name, &name);
            prop_assert_eq!(&input.shape, &shape);
            prop_assert_eq!(&input.elements, &elements);
        }
    }

    #[test]
    fn a_cut_or_lengthened_binary_body_is_refused(values in proptest::collection::vec(any::<f32>(), 1..9), change in 1_usize..9) {
        let json = format!(
            r#"{{"inputs":[{{"name":"x","shape":[{}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
            values.len(), values.len() * 4
        );
        let mut body = json.clone().into_bytes();
        body.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        prop_assert!(InferRequest::parse(&body, Some(json.len())).is_ok());
        prop_assert!(InferRequest::parse(&body[..body.len() - change.min(values.len() * 4)], Some(json.len())).is_err());
        body.extend(vec![0; change]);
        prop_assert!(InferRequest::parse(&body, Some(json.len())).is_err());
        prop_assert!(InferRequest::parse(&body, Some(body.len() + 1)).is_err());
    }
}

#[test]
fn a_value_that_json_cannot_carry_is_refused_as_json_and_sent_as_binary() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let values = [0.5, bad];
        let output =
            OutputTensor { name: "p", shape: &[2], elements: turnout_inference::ElementsRef::Fp32(&values) };
        let head = ResponseHead { model_name: "m", model_version: "1", id: None };
        let error = response::write(head, &[(output, Form::Json)], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("`p`"), "{error}");
        assert!(response::write(head, &[(output, Form::Binary)], &mut Vec::new()).unwrap().is_some());
    }
}
