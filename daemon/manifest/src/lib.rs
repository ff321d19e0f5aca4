//! What a release says about itself. The words of the product:
//! a *model* has *versions*; a version is a folder of files described by a signed *manifest*;
//! a *contract* says what requests and answers look like, *assertions* what a good answer is;
//! the *trust store*, or a signed *trust root*, says whose signature counts for which model, and gives a *verdict*;
//! a *plan* says how a *release* moves traffic from the live version to another, step by step;
//! each start of a worker is a *generation*. Nothing here touches a file, a clock or a socket.

pub mod assertion;
pub mod audit_context;
pub mod canonical;
pub mod contract;
pub mod description;
pub mod digest;
mod document;
pub mod element;
pub mod envelope;
pub mod exception;
pub mod expression;
pub mod ids;
pub mod judgement;
pub mod key;
mod key_window;
pub mod manifest;
pub mod oms;
pub mod order;
pub mod plan;
pub mod problem;
pub mod profile;
pub mod quorum;
pub mod root;
pub mod root_chain;
mod root_key;
pub mod section;
pub mod strategy;
mod strict_json;
pub mod trust;
pub mod trust_store;
pub mod yaml;

pub use audit_context::{AuditContext, AuditContextId, Operator};
pub use description::Description;
pub use digest::Sha256;
pub use document::deceptive;
pub use ids::{
    Channel, DeviceGroup, Generation, HostName, ModelName, Percent, ReleaseId, SetName, TenantName, Version,
    VersionRef,
};
pub use manifest::Manifest;
pub use plan::Plan;
pub use problem::{Problem, Problems};
pub use root::TrustRoot;
pub use root_chain::SignedRoot;
pub use trust::{CheckResult, TrustStore, Verdict, VerifiedManifest};
