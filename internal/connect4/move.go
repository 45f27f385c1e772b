package connect4

// Move is the answer of ChooseMove, in the form in which the command line prints it.
type Move struct {
	Column int              `json:"column"` // from 1
	Value  float64          `json:"value"`  // for the side to move, from -1 to 1
	Policy [Columns]float64 `json:"policy"` // share of each column, full ones 0
}

// MoveOptions say in which position to choose a move, and how.
type MoveOptions struct {
	Model       string // model file; "" is the untrained network
	Moves       string // columns played so far, digits 1 to 7
	Simulations int    // 0 is the network alone
}

// ChooseMove returns the network's move. A position that is illegal or finished is a usage error.
func ChooseMove(o MoveOptions) (Move, error) {
	p, err := ParseMoves(o.Moves)
	if err != nil {
		return Move{}, usagef("%v", err)
	}
	if winner, over := p.Over(); over {
		if winner == 0 {
			return Move{}, usagef("the game is over, drawn")
		}
		return Move{}, usagef("the game is over, player %d has won", winner)
	}
	net, _, err := networkOf(o.Model)
	if err != nil {
		return Move{}, err
	}
	r := NewSearch(NewEvaluator(net), o.Simulations).Run(p, nil)
	return Move{Column: r.Column + 1, Value: r.Value, Policy: r.Policy}, nil
}
