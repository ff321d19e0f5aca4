//! Trust roots, exceptions and orders as hostile hands would have them: one test for each group, with the verdict it is
//! due. Also what no sequence of roots may do.

#![allow(clippy::unwrap_used, reason = "a test stops where its ground is missing, in its helpers too")]

mod exceptions;
mod ground;
mod manifests;
mod orders;
mod properties;
mod roots;
mod windows;
