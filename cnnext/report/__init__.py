"""What is made of result files: a page, pictures, tables for the README, and what became slower."""
