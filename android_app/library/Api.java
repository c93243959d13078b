import java.util.List;
import java.util.jar.JarFile;
import kotlinx.validation.api.KotlinSignaturesLoadingKt;

/** Prints the public API of a jar's Kotlin classes, as Kotlin's binary compatibility validator writes it. */
public class Api {
    public static void main(String[] arguments) throws Exception {
        try (JarFile jar = new JarFile(arguments[0])) {
            var classes = KotlinSignaturesLoadingKt.loadApiFromJvmClasses(jar, name -> true);
            var shown = KotlinSignaturesLoadingKt.filterOutNonPublic(classes, List.of(), List.of());
            KotlinSignaturesLoadingKt.dump(shown, System.out);
        }
    }
}
