//! The host-visible pointer `<runtime>/models/<model>/current`: a read-only mount of the live version, swapped
//! atomically (mount beneath the live one, or the propagation tuck), for readers other than the workers.

use crate::HostError;
use crate::store::StoredName;
use turnout_manifest::ModelName;

/// The pointers.
pub trait Pointer {
    /// Makes the model's pointer show this version. One atomic operation: readers see the old or the new one.
    ///
    /// # Errors
    /// The kernel's own; the pointer then shows what it showed before.
    fn point(&self, name: &StoredName) -> Result<(), HostError>;

    /// What the model's pointer shows.
    ///
    /// # Errors
    /// The kernel's own.
    fn pointed(&self, model: &ModelName) -> Result<Option<StoredName>, HostError>;

    /// Takes the model's pointer away. No error when there is none.
    ///
    /// # Errors
    /// The kernel's own.
    fn unpoint(&self, model: &ModelName) -> Result<(), HostError>;
}
