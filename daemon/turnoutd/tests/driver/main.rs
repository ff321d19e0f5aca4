//! The real driver with a real journal, intake and signed manifests, on the fake host: a machine of plain values that
//! can fail at any call. Steps run inline, so every run is one thread that can be stopped between any two records.

#![expect(clippy::unwrap_used, reason = "a test stops where its ground is missing")]

mod admission;
mod canary;
mod crashes;
mod deaths;
mod denied;
mod door;
mod failures;
mod feeds;
mod in_place;
mod kept;
mod liars;
mod lies_in_place;
mod moves;
mod places;
mod plans;
mod power;
mod profiles;
mod pruned;
mod read_only;
mod rooted;
mod router;
mod sets;
mod shelf;
mod signed;
mod stage;
mod tenants;
mod way_back;
mod workers;
