//! The contraction of a matrix, against the sums between the classes.

use super::{BLOCK, Matrix, Number};
use crate::csr::Csr;
use crate::tests::families::{Random, SHAPES, Weights, graph};

fn check_contraction<N: Number + Default>(random: &mut Random) {
    let mut matrix = Matrix::<N>::default();
    for shape in SHAPES {
        for _ in 0..40 {
            let nodes = 2 + random.below(2 * BLOCK);
            let edges = graph(shape, Weights::Small, nodes, random);
            let graph = Csr::from_edges(nodes, &edges, |c| Some(c as u64));
            matrix.fill(&graph, 0, u64::MAX);
            // Rows visited in any order, at most of them a class begins.
            matrix.visited = (0..nodes as u32).collect();
            for at in (1..nodes).rev() {
                matrix.visited.swap(at, random.below(at + 1));
            }
            let among = 1 + random.below(6);
            matrix.starts = (0..nodes as u32).filter(|&at| at == 0 || random.below(among) > 0).collect();
            let (visited, starts) = (matrix.visited.clone(), matrix.starts.clone());
            let (lightest, degree) = matrix.contract(nodes);
            let classes = starts.len();
            // Classes are numbered by their first row.
            let mut members: Vec<Vec<u32>> = (0..classes)
                .map(|class| {
                    let end = starts.get(class + 1).map_or(nodes, |&end| end as usize);
                    let mut members = visited[starts[class] as usize..end].to_vec();
                    members.sort_unstable();
                    members
                })
                .collect();
            members.sort_unstable();
            let stride = Matrix::<N>::stride(classes);
            let mut degrees = Vec::new();
            for (class, from) in members.iter().enumerate() {
                assert!(from.iter().all(|&row| matrix.renamed[row as usize] as usize == class));
                let mut sums = vec![0; stride];
                for (sum, to) in sums.iter_mut().zip(&members).filter(|pair| pair.1 != from) {
                    let arcs = from.iter().flat_map(|&row| graph.row(row as usize));
                    *sum = arcs.filter(|arc| to.contains(&arc.0)).map(|arc| arc.1).sum::<u64>();
                }
                degrees.push(sums.iter().sum::<u64>());
                let expected: Vec<N> = sums.into_iter().map(N::new).collect();
                assert!(matrix.cells[class * stride..(class + 1) * stride] == expected, "{members:?}");
            }
            let least = degrees.iter().copied().min().unwrap_or(0);
            assert!(degree == N::new(least) && degrees[lightest] == least, "{degrees:?}");
        }
    }
}

#[test]
fn a_contracted_matrix_holds_what_lies_between_classes() {
    let mut random = Random(13);
    check_contraction::<f32>(&mut random);
    check_contraction::<i64>(&mut random);
}
