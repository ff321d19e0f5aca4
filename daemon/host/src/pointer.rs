//! The host-visible pointers, for readers other than the workers. `<runtime>/models/<model>/current` is a read-only mount
//! of the live version; `<runtime>/sets/<set>/current` holds one folder for each model of a set, with the same. Each is
//! swapped atomically (mount beneath the live one, or the propagation tuck): who opens `current` of a set once reads all
//! its models as they were at one moment.

use crate::HostError;
use crate::store::StoredName;
use turnout_manifest::{ModelName, SetName};

/// What a set's pointer shows of one of its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// This version.
    Version(StoredName),
    /// What the model's own pointer shows at that moment.
    AsPointed(ModelName),
}

impl Shown {
    /// The model.
    pub fn model(&self) -> &ModelName {
        match self {
            Self::Version(name) => &name.model,
            Self::AsPointed(model) => model,
        }
    }
}

/// The pointers.
pub trait Pointer {
    /// Makes the model's pointer show this version, and then each set that shows the model. Each is one atomic operation:
    /// readers see the old or the new one.
    ///
    /// # Errors
    /// The kernel's own; the pointer then shows what it showed before.
    fn point(&self, name: &StoredName) -> Result<(), HostError>;

    /// What the model's pointer shows.
    ///
    /// # Errors
    /// The kernel's own.
    fn pointed(&self, model: &ModelName) -> Result<Option<StoredName>, HostError>;

    /// Takes the model's pointer away, and the model out of each set that shows it. No error when there is none.
    ///
    /// # Errors
    /// The kernel's own.
    fn unpoint(&self, model: &ModelName) -> Result<(), HostError>;

    /// Makes the set's pointer show these versions, each model once, and no others: one atomic operation. The models' own
    /// pointers stay.
    ///
    /// # Errors
    /// [`HostError::Missing`] for a model whose own pointer shows nothing, or the kernel's own; the set's pointer then
    /// shows what it showed before.
    fn point_set(&self, set: &SetName, shown: &[Shown]) -> Result<(), HostError>;

    /// What the set's pointer shows, in the order of the models; nothing when there is none.
    ///
    /// # Errors
    /// The kernel's own.
    fn pointed_set(&self, set: &SetName) -> Result<Vec<StoredName>, HostError>;

    /// Takes the set's pointer away. No error when there is none.
    ///
    /// # Errors
    /// The kernel's own.
    fn unpoint_set(&self, set: &SetName) -> Result<(), HostError>;
}
