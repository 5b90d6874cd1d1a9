//! One suite for every queue backend.
