cwlVersion: v1.2
class: CommandLineTool
doc: Count the lines of a file.
baseCommand: [wc, -l]
inputs:
  text: {type: File}
stdin: $(inputs.text.path)
stdout: $(inputs.text.nameroot).count
outputs:
  count: {type: stdout}
