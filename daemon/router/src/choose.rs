//! A request's head -> the arm it meets. Pure: the same key, share and request always give the same answer, in every
//! thread, after every restart; a greater share only adds to the candidate's side.

use hyper::http::request::Parts;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use turnout_manifest::Percent;
use turnout_manifest::expression::Subject;
use turnout_manifest::plan::Strategy;

/// The whole of the hash interval, as in the kernel.
const WHOLE: u64 = 1 << 32;
/// 2^64 divided by the golden ratio: its multiples fill the interval as evenly as any sequence can.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Digits of a number that fit in 64 bits.
const DIGITS_MAX: usize = 18;

/// One of the two arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The new version.
    Candidate,
    /// The old version.
    Stable,
}

/// A strategy with its key and share.
#[derive(Debug, Clone)]
pub struct Chooser {
    strategy: Strategy,
    salt: u64,
    below: u64,
}

impl Chooser {
    /// A strategy of which the candidate's side is this share.
    pub fn new(strategy: Strategy, salt: u64, share: Percent) -> Self {
        let below = u64::from(share.thousandths()) * WHOLE / u64::from(Percent::ALL.thousandths());
        Self { strategy, salt, below }
    }

    /// The arm of a request. `ordinal` counts the requests of the port: those that no rule picks are dealt out by it.
    pub fn choose(&self, head: &Parts, ordinal: u64) -> Choice {
        if self.below == WHOLE {
            return Choice::Candidate;
        }
        let picked = match &self.strategy {
            Strategy::UserHash { header } => {
                let user = head.headers.get(header.as_str()).map(|value| value.as_bytes());
                return match user.filter(|user| !user.is_empty()) {
                    Some(user) => self.side(point_of_user(self.salt, user)),
                    // Without a key there is no user whose version it could be.
                    None => Choice::Stable,
                };
            }
            Strategy::Header { header, value } => {
                head.headers.get(header.as_str()).is_some_and(|found| *found == *value.as_str())
            }
            Strategy::Expression { expression } => expression.matches(&Head(head)),
            // Not a router's; asked of one, they deal out requests.
            Strategy::Weight | Strategy::SourceHash | Strategy::InPlace => false,
        };
        if picked { Choice::Candidate } else { self.side(dealt(self.salt, ordinal)) }
    }

    fn side(&self, point: u32) -> Choice {
        if u64::from(point) < self.below { Choice::Candidate } else { Choice::Stable }
    }
}

/// The point a user falls on. A number at the end of the key is spread by multiples of the golden ratio, all else by a
/// keyed hash: of any hundred thousand users numbered in a row, a share gets its part within a few users, where a hash
/// alone would be off by up to 0.4 points.
pub fn point_of_user(salt: u64, user: &[u8]) -> u32 {
    let digits = user.iter().rev().take(DIGITS_MAX).take_while(|byte| byte.is_ascii_digit()).count();
    let (name, number) = user.split_at(user.len() - digits);
    let number = number.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let digest = Sha256::new().chain_update(salt.to_le_bytes()).chain_update(name).finalize();
    let base = digest.iter().take(8).fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    (base.wrapping_add(number.wrapping_mul(GOLDEN)) >> 32) as u32
}

/// The point of the request with this ordinal: a share gets its part of any run of requests, within a few.
fn dealt(salt: u64, ordinal: u64) -> u32 {
    (salt.wrapping_add(ordinal.wrapping_mul(GOLDEN)) >> 32) as u32
}

/// A head as expressions ask about it.
struct Head<'a>(&'a Parts);

impl Subject for Head<'_> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn path(&self) -> &str {
        self.0.uri.path()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.get(name)?.to_str().ok()
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let pairs = self.0.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.map(|(key, value)| (decoded(key), value)).find(|(key, _)| key == name).map(|(_, v)| decoded(v))
    }
}

/// A part of a query as text: `+` is a blank, `%2B` is `+`; what is not text after that is replaced.
fn decoded(part: &str) -> Cow<'_, str> {
    if !part.contains(['%', '+']) {
        return Cow::Borrowed(part);
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        let quoted = match (first, after) {
            (b'%', [high, low, ..]) => char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16)),
            _ => None,
        };
        let plain = if *first == b'+' { b' ' } else { *first };
        bytes.push(quoted.map_or(plain, |(high, low)| (high * 16 + low) as u8));
        rest = &after[if quoted.is_some() { 2 } else { 0 }..];
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use proptest::prelude::*;
    use turnout_manifest::plan::Strategy;

    const USERS: u32 = 100_000;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method("POST").uri("/v2/models/fraud/infer?tier=a%2Bb+c&x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn user_hash(salt: u64, thousandths: u32) -> Chooser {
        let strategy = Strategy::UserHash { header: "x-user-id".parse().unwrap() };
        Chooser::new(strategy, salt, Percent::from_thousandths(thousandths).unwrap())
    }

    /// The candidate's share of these users, %, at each share asked.
    fn shares(salt: u64, users: impl Iterator<Item = String>, asked: &[u32]) -> Vec<f64> {
        let points: Vec<u32> = users.map(|user| point_of_user(salt, user.as_bytes())).collect();
        let share = |asked: &u32| {
            let chooser = user_hash(salt, *asked);
            let chosen = points.iter().filter(|point| chooser.side(**point) == Choice::Candidate).count();
            chosen as f64 * 100.0 / points.len() as f64
        };
        asked.iter().map(share).collect()
    }

    #[test]
    fn a_hundred_thousand_users_split_within_a_tenth_of_a_point() {
        for (salt, form) in [(1, "user-"), (0x5eed, ""), (u64::MAX, "tenant 7/u")] {
            let users = (0..USERS).map(|number| format!("{form}{number}"));
            let asked = [500, 1_000, 5_000, 25_000, 50_000, 99_000];
            for (asked, seen) in asked.iter().zip(shares(salt, users, &asked)) {
                let asked = f64::from(*asked) / 1000.0;
                assert!((seen - asked).abs() < 0.1, "{form}, {asked} %: {seen} %");
            }
        }
    }

    #[test]
    fn users_without_numbers_and_with_gaps_split_within_the_error_of_drawing_them() {
        for step in [2, 7, 10, 100, 1000, 4096] {
            let users = (0..USERS / 10).map(|number| format!("user-{}", number * step));
            let seen = shares(3, users, &[20_000])[0];
            assert!((seen - 20.0).abs() < 1.6, "every {step}th: {seen} %");
        }
        let names = (0..USERS / 10).map(|number| {
            let digest = Sha256::digest(number.to_string());
            digest.iter().take(8).map(|byte| char::from(b'a' + byte % 26)).collect()
        });
        let seen = shares(3, names, &[20_000])[0];
        assert!((seen - 20.0).abs() < 1.6, "names: {seen} %");
    }

    #[test]
    fn another_key_chooses_other_users() {
        let chosen = |salt, user: &str| {
            user_hash(salt, 50_000).choose(&head(&[("x-user-id", user)]), 0) == Choice::Candidate
        };
        for form in ["user-", "name-x"] {
            let users =
                (0..1000).map(|number| format!("{form}{number}{}", if form == "user-" { "" } else { "y" }));
            let moved = users.filter(|user| chosen(1, user) != chosen(2, user)).count();
            assert!((100..=900).contains(&moved), "{moved} of 1000 users change sides with the key");
        }
    }

    #[test]
    fn no_share_is_nobody_and_the_whole_is_everybody() {
        for user in (0..1000).map(|number| format!("u{number}")) {
            let head = head(&[("x-user-id", &user)]);
            assert_eq!(user_hash(9, 0).choose(&head, 0), Choice::Stable);
            assert_eq!(user_hash(9, 100_000).choose(&head, 0), Choice::Candidate);
        }
        assert_eq!(user_hash(9, 100_000).choose(&head(&[]), 0), Choice::Candidate);
    }

    #[test]
    fn a_request_without_its_key_stays_with_the_old_version() {
        for ordinal in 0..1000 {
            assert_eq!(user_hash(9, 99_999).choose(&head(&[]), ordinal), Choice::Stable);
            assert_eq!(user_hash(9, 99_999).choose(&head(&[("x-user-id", "")]), ordinal), Choice::Stable);
        }
    }

    #[test]
    fn a_rule_picks_its_requests_at_any_share_and_the_others_are_dealt_out() {
        let header =
            Strategy::Header { header: "x-canary".parse().unwrap(), value: "always".parse().unwrap() };
        let expression = r#"headers["x-region"] == "eu" && query["tier"] == "a+b c" && "x" in query"#;
        let expression = Strategy::Expression { expression: expression.parse().unwrap() };
        for (strategy, fits) in [(header, ("x-canary", "always")), (expression, ("x-region", "eu"))] {
            for asked in [0, 10_000, 50_000] {
                let share = Percent::from_thousandths(asked).unwrap();
                let chooser = Chooser::new(strategy.clone(), 7, share);
                let mut others = 0;
                for ordinal in 0..10_000 {
                    assert_eq!(chooser.choose(&head(&[fits]), ordinal), Choice::Candidate);
                    let misses = head(&[(fits.0, "no")]);
                    others += u32::from(chooser.choose(&misses, ordinal) == Choice::Candidate);
                }
                assert!(others.abs_diff(asked / 10) <= 3, "{others} of 10000 at {share}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_user_keeps_the_version_while_the_share_stays_and_only_moves_forward(
            user in "[ -~]{1,40}", salt: u64, lower in 0_u32..=100_000, more in 0_u32..=100_000, ordinal: u64,
        ) {
            let higher = (lower + more).min(100_000);
            let head = head(&[("x-user-id", user.trim())]);
            let before = user_hash(salt, lower).choose(&head, 0);
            prop_assert_eq!(before, user_hash(salt, lower).choose(&head, ordinal));
            if before == Choice::Candidate {
                prop_assert_eq!(user_hash(salt, higher).choose(&head, ordinal), Choice::Candidate);
            }
        }
    }
}
