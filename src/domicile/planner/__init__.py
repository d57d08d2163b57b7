"""From a question ("move these subjects from A to B") to a plan, as data. Changes nothing."""
