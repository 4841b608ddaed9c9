//! The wire protocol: frames, instructions and their codec, without I/O
