//! Snapshots: folders as trees and chunks named by digest.
