"""What an exported project brings along to run its steps without Kale; copied as files, never imported by Kale."""
