// Splits one line into words by the rules of Terraform's own `TF_CLI_ARGS`: the same as in
// src/terraform/cli_args.rs. No shell reads it, so nothing is expanded.

const BLANK = " \t\r\n";
// Where Terraform silently drops the rest of the text, or refuses it, depending on its release.
const OPERATORS = ";&|<>()`";

const PER_LINE = "write the command with one argument per line: then nothing is split or unquoted";

export class SplitError extends Error {}

const unclosed = () => new SplitError(`a quote is not closed, or a backslash is the last character; ${PER_LINE}`);
const unsettled = (text) => new SplitError(`\`${text}\` outside quotes has no one meaning for Terraform; ${PER_LINE}`);

export function split(text) {
  const words = [];
  let word;
  let quote;
  const characters = [...text];
  for (let i = 0; i < characters.length; i++) {
    const character = characters[i];
    if (quote !== undefined && character === quote) {
      quote = undefined;
    } else if (quote !== "'" && character === "\\") {
      const hidden = characters[++i];
      if (hidden === undefined) throw unclosed();
      // A letter in older releases of Terraform, a tab or a newline in newer ones.
      if ("tn".includes(hidden)) throw unsettled(`\\${hidden}`);
      word = (word ?? "") + hidden;
    } else if (quote === undefined && "'\"".includes(character)) {
      quote = character;
      word ??= "";
    } else if (quote === undefined && BLANK.includes(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else if (quote === undefined && OPERATORS.includes(character)) {
      throw unsettled(character);
    } else {
      word = (word ?? "") + character;
    }
  }
  if (quote !== undefined) throw unclosed();
  if (word !== undefined) words.push(word);
  return words;
}
