//! every_instruction
