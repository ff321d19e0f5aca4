//! What fails again and again, said when it is news: the log of something that is tried each second would hide all else.

use std::collections::BTreeMap;

/// Failures that were said, by what failed.
#[derive(Debug, Default)]
pub struct Failing(BTreeMap<String, String>);

impl Failing {
    /// Says this failure, unless it was the last that was said of the same.
    pub fn say(&mut self, what: &str, why: &str) {
        if self.is_news(what, why) {
            tracing::error!("{what}: {why}");
        }
    }

    fn is_news(&mut self, what: &str, why: &str) -> bool {
        let before = self.0.insert(what.to_owned(), why.to_owned());
        before.as_deref() != Some(why)
    }

    /// Forgets what does not fail any more: its next failure is news.
    pub fn keep(&mut self, fails: impl Fn(&str) -> bool) {
        self.0.retain(|what, _| fails(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_once_and_again_when_it_changes_or_comes_back() {
        let mut failing = Failing::default();
        assert!(failing.is_news("unmount `/a`", "busy"));
        assert!(!failing.is_news("unmount `/a`", "busy"));
        assert!(failing.is_news("unmount `/b`", "busy"), "of another object");
        assert!(failing.is_news("unmount `/a`", "denied"), "for another reason");
        failing.keep(|what| what == "unmount `/b`");
        assert!(failing.is_news("unmount `/a`", "denied"), "after it worked");
        assert!(!failing.is_news("unmount `/b`", "busy"));
    }
}
