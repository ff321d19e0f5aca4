//! How the pointers of sets and those of their models go together.

use crate::subject::{MODELS, Subject, both, config, open_pointer, own_mounts, set, version};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use turnout_host::HostError;
use turnout_host::linux_pointer::{LinuxPointer, Method};
use turnout_host::mounts::in_private_namespace;
use turnout_host::pointer::{Pointer, Shown};

/// By each method that works here.
fn by_each_method(test: impl Fn(LinuxPointer) + Sync) {
    for method in [Method::Beneath, Method::Tuck, Method::Stack].into_iter().filter(|method| method.works()) {
        let body = || {
            test(open_pointer(method));
            Ok(())
        };
        in_private_namespace(body).unwrap();
    }
}

#[test]
fn a_set_is_read_only_and_what_was_opened_stays() {
    by_each_method(|pointer| {
        Subject::Set.show(&pointer, 1);
        let point = pointer.point_of_set(&set());
        for path in ["fraud/files/a", "cards/new", "new"] {
            let refused = fs::write(point.join(path), "x").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem, "{path}");
        }
        let mut old = File::open(point.join("cards/files/a")).unwrap();
        Subject::Set.show(&pointer, 2);
        Subject::Set.show(&pointer, 2);
        let mut bytes = Vec::new();
        old.read_to_end(&mut bytes).unwrap();
        assert_eq!((bytes, Subject::Set.read_once()), (vec![1; 16], Ok(2)));
        pointer.unpoint_set(&set()).unwrap();
        pointer.unpoint_set(&set()).unwrap();
        assert_eq!(pointer.pointed_set(&set()).unwrap(), []);
        assert!(!point.exists());
    });
}

#[test]
fn a_model_that_is_pointed_alone_is_shown_by_its_sets_too_and_leaves_them_with_its_pointer() {
    by_each_method(|pointer| {
        for model in MODELS {
            pointer.point(&version(model, 1)).unwrap();
        }
        let alone = "alone".parse().unwrap();
        Subject::Set.show(&pointer, 1);
        pointer.point_set(&alone, &[Shown::AsPointed(version("cards", 1).model)]).unwrap();
        pointer.point(&version("fraud", 2)).unwrap();
        assert_eq!(pointer.pointed_set(&set()).unwrap(), [version("cards", 1), version("fraud", 2)]);
        assert_eq!(pointer.pointed_set(&alone).unwrap(), [version("cards", 1)]);
        pointer.unpoint(&version("cards", 1).model).unwrap();
        assert_eq!(pointer.pointed_set(&set()).unwrap(), [version("fraud", 2)]);
        assert_eq!(pointer.pointed_set(&alone).unwrap(), [], "nothing is left to be shown");
    });
}

#[test]
fn a_set_that_cannot_be_shown_whole_is_not_changed() {
    by_each_method(|pointer| {
        Subject::Set.show(&pointer, 1);
        let mounts = own_mounts();
        let unknown = [Shown::Version(version("fraud", 2)), Shown::Version(version("cards", 3))];
        assert!(matches!(pointer.point_set(&set(), &unknown), Err(HostError::Missing { .. })));
        let unpointed = [Shown::Version(version("fraud", 2)), Shown::AsPointed(version("cards", 2).model)];
        assert!(matches!(pointer.point_set(&set(), &unpointed), Err(HostError::Missing { .. })));
        assert_eq!((Subject::Set.shown(&pointer), own_mounts()), (Some(1), mounts));
    });
}

#[test]
fn models_come_into_a_set_and_leave_it() {
    by_each_method(|pointer| {
        pointer.point_set(&set(), &both(1)[..1]).unwrap();
        assert_eq!(pointer.pointed_set(&set()).unwrap(), [version("fraud", 1)]);
        Subject::Set.show(&pointer, 1);
        assert_eq!(Subject::Set.read_once(), Ok(1));
        pointer.point_set(&set(), &both(2)[1..]).unwrap();
        assert_eq!(pointer.pointed_set(&set()).unwrap(), [version("cards", 2)]);
        assert!(!pointer.point_of_set(&set()).join("fraud").exists());
        // The next daemon finds them as they are.
        let method = pointer.method();
        drop(pointer);
        let pointer = LinuxPointer::open(&config(method)).unwrap();
        assert_eq!(pointer.pointed_set(&set()).unwrap(), [version("cards", 2)]);
    });
}
