//! The contract suite: what every Store must do.
