//! An expression of a plan: what is accepted says yes or no of any request, within its limits.
#![no_main]

use std::borrow::Cow;
use turnout_manifest::expression::{EXPRESSION_MAX, Expression, Subject};

/// A request whose every part is the fuzzer's.
struct Request<'a>(&'a str);

impl Subject for Request<'_> {
    fn method(&self) -> &str {
        self.0
    }

    fn path(&self) -> &str {
        self.0
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0.contains(name).then_some(self.0)
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.contains(name).then_some(Cow::Borrowed(self.0))
    }
}

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (text, request) = input;
    if let Ok(expression) = text.parse::<Expression>() {
        assert!(text.len() <= EXPRESSION_MAX);
        let _ = expression.matches(&Request(request));
        assert_eq!(expression.to_string().parse::<Expression>().as_ref(), Ok(&expression));
    }
});
